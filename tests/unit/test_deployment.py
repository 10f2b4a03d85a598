"""Image, compose file and Makefile, as far as they can be checked without a container engine."""

import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import yaml

from virtual_stain.web.healthcheck import is_serving, main

ROOT = Path(__file__).parents[2]


def test_the_documented_score_line_lost_its_result_with_the_container():
    text = (ROOT / "Dockerfile").read_text()
    run = text[text.index("docker run") :]
    line = run[: run.index("docker compose")].replace("\n#", " ").replace("\\", " ")
    mounted = re.findall(r"-v \S+?:(/[^\s:]+)", line.replace('"', ""))
    out = re.search(r"--out (\S+)", line)
    assert out is not None
    assert any(out[1].startswith(place) for place in mounted)


def test_the_image_runs_as_a_user_with_its_extras_and_a_health_check():
    text = (ROOT / "Dockerfile").read_text()
    assert "USER vstain" in text
    assert "HEALTHCHECK" in text
    assert ".[web,dicom,serving,sign,svr]" in text
    copied = re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())


def test_the_compose_file_publishes_to_this_machine_with_a_token_and_a_read_only_root():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["vstain"]
    assert service["ports"] == ["${VSTAIN_ADDRESS:-127.0.0.1}:8899:8899"]
    assert service["read_only"] is True
    assert "VSTAIN_WEB_TOKEN" in service["environment"]
    assert service["volumes"][0].endswith("/slides:ro")


def test_the_makefile_looks_for_python_once_and_parses():
    text = (ROOT / "Makefile").read_text()
    assert not re.search(r"^PYTHON \??= .*shell", text, re.MULTILINE)
    done = subprocess.run(["make", "-n", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Looking for Python") <= 1


def test_the_health_check_asks_a_server_and_leaves_other_verbs_alone(tmp_path):
    command = tmp_path / "cmdline"
    command.write_bytes(b"/usr/bin/python\0/usr/bin/vstain\0score\0a.ndpi\0")
    assert not is_serving(command)
    command.write_bytes(b"/usr/bin/python\0/usr/bin/vstain\0serve\0--root\0/slides\0")
    assert is_serving(command)


class _Well(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_health_check_tells_an_answer_from_none(monkeypatch):
    monkeypatch.setattr("virtual_stain.web.healthcheck.is_serving", lambda: True)
    server = HTTPServer(("127.0.0.1", 0), _Well)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/healthz"
    assert main(url) == 0
    server.shutdown()
    thread.join()
    server.server_close()
    assert main(url) == 1


def test_the_whole_folder_with_its_environment_was_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {name for names in copied for name in names.split()}
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == wanted
