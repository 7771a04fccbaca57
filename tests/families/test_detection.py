"""What a configuration shows: architectures and model_type together, and in an error's first line what an unknown one is."""

from __future__ import annotations

from typing import Any

import pytest

from convsvc.blocks.moe import sparse_layers
from convsvc.errors import JobError, SourceError
from convsvc.families import FAMILIES, Facts, find_family


def shown(**config: Any) -> str:
    return find_family(None, Facts(config, "config.json")).name


def refused(**config: Any) -> str:
    with pytest.raises(JobError) as caught:
        shown(**config)
    return caught.value.message


@pytest.mark.parametrize(
    ("architecture", "model_type", "family"),
    [
        ("LLaMAForCausalLM", "llama", "llama2"),
        ("Ministral3ForCausalLM", "ministral3", "magistral"),
        ("Glm4MoeLiteForCausalLM", "glm4_moe_lite", "glm4-moe-lite"),
        ("MiMoForCausalLM", "mimo", "mimo"),
        ("GraniteForCausalLM", "granite", "granite"),
        ("SmolLM3ForCausalLM", "smollm3", "smollm3"),
        ("Ernie4_5_ForCausalLM", "ernie4_5", "ernie4.5"),
        ("InternLMForCausalLM", "internlm", "internlm"),
        ("InternLM2ForCausalLM", "internlm2", "internlm2"),
        ("InternLM3ForCausalLM", "internlm3", "internlm3"),
        ("PanguEmbeddedForCausalLM", "PanguEmbedded", "pangu-embedded"),
        ("GemmaForCausalLM", "gemma", "gemma"),
        ("Gemma3ForCausalLM", "gemma3_text", "gemma3"),
        ("DeepseekForCausalLM", "deepseek", "deepseek"),
        ("QWenLMHeadModel", "qwen", "qwen"),
        ("BaichuanForCausalLM", "baichuan", "baichuan"),
        ("MiniCPMForCausalLM", "minicpm", "minicpm"),
        ("AquilaForCausalLM", "aquila", "llama2"),
        ("SkyworkForCausalLM", "skywork", "llama2"),
        ("XverseForCausalLM", "xverse", "llama2"),
        ("YiForCausalLM", "Yi", "yi"),
        ("OrionForCausalLM", "orion", "orion"),
        ("ExaoneForCausalLM", "exaone", "exaone"),
        ("JambaForCausalLM", "jamba", "jamba"),
        ("GraniteMoeHybridForCausalLM", "granitemoehybrid", "granite4"),
        # transformers runs InternLM3 with Llama's class, and saves that name.
        ("LlamaForCausalLM", "internlm3", "internlm3"),
        ("LlamaForCausalLM", "iquestcoder", "llama2"),
        # A class of somebody's own; what is left over would be named.
        ("MyLlamaForCausalLM", "llama", "llama2"),
        # The class says more than the kind.
        ("Qwen2ForCausalLM", "llama", "qwen25"),
    ],
)
def test_a_family_is_known_by_its_other_names(architecture: str, model_type: str, family: str) -> None:
    assert shown(architectures=[architecture], model_type=model_type) == family


def test_no_name_belongs_to_two_families_that_nothing_tells_apart() -> None:
    for family in FAMILIES.values():
        for architecture in family.architectures:
            for model_type in family.model_types:
                config = {"architectures": [architecture], "model_type": model_type, "padded_vocab_size": 1}
                rivals = [
                    other.name
                    for other in FAMILIES.values()
                    if architecture in other.architectures and model_type in other.model_types and other.distinguish is None
                ]
                assert len(rivals) < 2, (config, rivals)


@pytest.mark.parametrize("part", ["text_config", "llm_config", "language_config"])
def test_of_a_multimodal_model_the_text_parts_family_is_named(part: str) -> None:
    text = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    said = refused(architectures=["SomeVLChatModel"], model_type="some_vl_chat", **{part: text})
    assert said.startswith("config.json is a multimodal model (architectures ['SomeVLChatModel']")
    assert said.endswith(f"its text part ({part}) is of the family qwen25; source.modules: [text_decoder] converts that")


def test_a_text_part_that_only_says_model_type_is_named_too() -> None:
    said = refused(architectures=["Some3ForConditionalGeneration"], model_type="some3", text_config={"model_type": "mistral"})
    assert "its text part (text_config) is of the family magistral" in said


def test_a_text_part_nobody_knows_is_said_to_be_that() -> None:
    said = refused(model_type="gemma9", text_config={"model_type": "gemma9_text"})
    assert "its text part (text_config: architectures None, model_type 'gemma9_text') is of no known family" in said


def test_a_model_with_a_vision_tower_and_no_text_part_is_called_multimodal() -> None:
    said = refused(architectures=["SomeVLForConditionalGeneration"], model_type="some_vl", vision_config={"depth": 32})
    assert said.startswith("config.json is a multimodal model")
    assert "vision_config" in said


def test_a_known_class_with_a_vision_tower_is_multimodal_around_that_family() -> None:
    said = refused(architectures=["QWenLMHeadModel"], model_type="qwen", visual={"width": 1664})
    assert said.startswith("config.json is a multimodal model")
    assert said.endswith("its text part is of the family qwen; source.modules: [text_decoder] converts that")
    assert shown(architectures=["QWenLMHeadModel"], model_type="qwen", visual=None, vision_config={}) == "qwen"


OTHER_HEADS = [("ForSequenceClassification", "a classifier"), ("RewardModel", "a reward model"), ("ForRewardModel", "a reward model")]


@pytest.mark.parametrize(("head", "what"), OTHER_HEADS)
@pytest.mark.parametrize("kind", ["internlm", "internlm_of_somebody"])
def test_a_model_with_another_head_is_its_body_with_what_it_has_instead(kind: str, head: str, what: str) -> None:
    family = find_family(None, Facts({"architectures": [f"InternLM{head}"], "model_type": kind}, "config.json"))
    assert (family.name, family.instead, family.output, family.tied_output) == ("internlm", what, (), ())
    assert find_family("internlm", Facts({"architectures": [f"InternLM{head}"]}, "config.json")).instead == what
    assert not find_family(None, Facts({"architectures": ["InternLMForCausalLM"], "model_type": kind}, "config.json")).instead


def test_a_model_with_another_head_around_no_known_body_is_called_by_it() -> None:
    said = refused(architectures=["NobodysForSequenceClassification"], model_type="nobodys")
    assert said == "config.json is no language model: NobodysForSequenceClassification is a classifier"


@pytest.mark.parametrize("said", [{"is_encoder_decoder": True}, {"encoder": {"hidden_size": 8}, "decoder": {"hidden_size": 8}}])
def test_a_model_of_two_stacks_is_called_that(said: dict[str, Any]) -> None:
    assert refused(architectures=["T5GemmaForConditionalGeneration"], model_type="t5gemma", **said) == (
        "config.json is an encoder-decoder model (architectures ['T5GemmaForConditionalGeneration'], model_type 't5gemma'): "
        "no family of those is known"
    )


def test_an_unknown_family_is_named_as_the_configuration_names_it() -> None:
    assert refused(architectures=["NobodysForCausalLM"], model_type="nobodys") == (
        "config.json shows no known model family (architectures ['NobodysForCausalLM'], model_type 'nobodys')"
    )


def test_what_can_be_done_with_an_unknown_family_is_said() -> None:
    with pytest.raises(JobError) as caught:
        find_family(None, Facts({"architectures": ["Zamba2ForCausalLM"], "model_type": "zamba2"}, "config.json"))
    assert 'model_type "tensors", source.format "tensor-files"' in str(caught.value.do)


def test_mlp_layer_types_say_which_layers_have_experts() -> None:
    kinds = ["dense", "sparse", "dense", "sparse"]
    facts = Facts({"mlp_layer_types": kinds, "first_k_dense_replace": 3}, "config.json")
    assert [sparse_layers(facts)(layer) for layer in range(5)] == [False, True, False, True, True]


def test_what_a_converted_model_says_of_its_layers_comes_before_the_published_list() -> None:
    facts = Facts({"mlp_layer_types": ["dense", "sparse"], "moe_layer_freq": [1, 0]}, "args")
    assert [sparse_layers(facts)(layer) for layer in range(2)] == [True, False]


def test_a_kind_of_layer_nobody_knows_is_an_error() -> None:
    with pytest.raises(SourceError, match="mlp_layer_types has 'hashed'"):
        sparse_layers(Facts({"mlp_layer_types": ["hashed"]}, "config.json"))


def test_a_text_under_the_class_of_a_whole_model_is_that_text() -> None:
    config = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe_text", "num_hidden_layers": 4}
    assert find_family(None, Facts(config, "config.json")).name == "qwen3.5-moe"
    whole = config | {"model_type": "qwen3_5_moe", "text_config": {}, "vision_config": {}}
    assert find_family(None, Facts(whole, "config.json")).name == "qwen3.5-vl-moe"


def test_another_class_under_a_known_kind_whose_towers_are_not_that_kinds_has_a_text_decoder_only() -> None:
    text = {"architectures": ["DeepseekV2ForCausalLM"], "use_mla": False, "hidden_size": 32, "num_hidden_layers": 2}
    config = {
        "architectures": ["DeepseekOCR2ForCausalLM"],
        "model_type": "deepseek_vl_v2",
        "language_config": text,
        "vision_config": {"width": {"sam_vit_b": {"layers": 12}}},
    }
    with pytest.raises(JobError, match=r"is of the family deepseek; source.modules: \[text_decoder\] converts that"):
        find_family(None, Facts(config, "config.json"))
