# docker build -t evomerge . && docker run --rm -v "$PWD:/work" evomerge search search.yaml
# For a GPU, set BASE to an image with Python 3.11 or newer and a CUDA build of torch.
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY evomerge evomerge
COPY evaluators evaluators
COPY search_spaces search_spaces
COPY experiments/tiny_models experiments/tiny_models
RUN pip install --no-cache-dir --constraint constraints.txt . && rm -rf /source
WORKDIR /work
ENTRYPOINT ["evomerge"]
CMD ["--help"]
