# The agent's image for people who have Docker; `hack/image agent` makes the same layout without it.
#   docker buildx build --platform linux/amd64,linux/arm64 --tag lighterage/lighterage:dev .
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY requirements.lock requirements-build.in ./
ENV PACKAGES=/root-of-image/usr/local/lib/python3.11/site-packages
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --no-compile --target "$PACKAGES" --requirement requirements.lock \
    && pip install --no-cache-dir --requirement requirements-build.in
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proto proto
COPY agent agent
COPY hack/images/packages.py /packages.py
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-compile --target "$PACKAGES" . \
    && python /packages.py /root-of-image

FROM python:3.11-slim-bookworm
COPY --from=build /root-of-image/ /
ENV PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["lighter"]
