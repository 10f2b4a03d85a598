# CPU image. Not built by the tests: no container engine runs where this project is developed.
#   docker build -t vstain . && docker run --rm -v /slides:/slides vstain score /slides/a.ndpi --model /slides/model
FROM python:3.11-slim-bookworm
# what opencv-python loads at run time
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/vstain
COPY setup.cfg setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY virtual_stain ./virtual_stain
# the same line as in the Makefile, without the tools of development
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[web]"
RUN useradd --create-home vstain
USER vstain
WORKDIR /home/vstain
ENTRYPOINT ["vstain"]
CMD ["--help"]
