"""PEFT adapter directories: adapter_config.json and adapter_model.safetensors, beside a Hugging Face base model."""
