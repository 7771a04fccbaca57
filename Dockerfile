# One image for every part: the API, the executor, Ray's head and workers.
#
#   docker build --tag convsvc:0.1.0 .
#   docker run --rm convsvc:0.1.0 version
#
# Without arguments it serves on loopback only, as `convsvc serve` does. deploy/ says how to listen beyond that.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    CONVSVC_HOME=/var/lib/convsvc

# The same user id everywhere, so that API, executor and workers may write to the same shared volume.
RUN useradd --uid 10001 --create-home convsvc \
 && install --directory --owner=convsvc --group=convsvc /var/lib/convsvc /shared

WORKDIR /opt/convsvc
COPY constraints.txt pyproject.toml README.md ./
COPY convsvc ./convsvc
RUN pip install --constraint constraints.txt ".[cluster,postgres]"

USER 10001:10001
WORKDIR /var/lib/convsvc
EXPOSE 8765

# The API's own check. compose.yaml and the manifests replace it for the containers that do not serve.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8765/readyz', timeout=2)"]

ENTRYPOINT ["convsvc"]
CMD ["serve"]
