# CPU image with the extras that a hospital uses. The tests do not build it; tests/unit/test_deployment.py checks what can
# be checked without a container engine, and docs/serve.md says when it was last built.
#
#   docker build -t vstain .
#   docker run --rm --read-only --tmpfs /tmp -v /slides:/slides:ro -v "$PWD/results":/results --user "$(id -u):$(id -g)" \
#     vstain score /slides/a.ndpi --model /slides/models/ki67 --out /results
#   docker compose up        vstain serve on 127.0.0.1:8899, see docker-compose.yml
#
# Results belong on a mounted folder: what is written elsewhere goes with the container.
FROM python:3.11-slim-bookworm
# what opencv-python loads at run time
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/vstain
COPY setup.cfg setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY virtual_stain ./virtual_stain
# the same line as in the Makefile, with the extras in place of the tools of development
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[web,dicom,serving,sign,svr]"
RUN useradd --create-home --uid 1000 vstain && mkdir /results && chown vstain /results
USER vstain
# a read-only root and any --user: caches go to /tmp, results to the mounted folder
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1
WORKDIR /results
EXPOSE 8899
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "virtual_stain.web.healthcheck"]
ENTRYPOINT ["vstain"]
CMD ["--help"]
