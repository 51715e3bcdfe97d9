"""Servers of the rig's packages, as guests with a network of their own on a testbed."""

import os
import subprocess

from guests import Program
from hosts import PORT, program, testbed, wait_for

_FILE_BYTES = 512 << 10
# It may not close a connection that a client goes on with.
_NGINX = """user root; daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 512; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen {port}; root {folder}; }} }}
"""


def nginx(bed):
    """nginx with two workers at host a, and the file that it serves as /file."""
    folder = os.path.join(bed.scratch.path, "nginx")
    os.makedirs(folder)
    served, configuration, errors = (os.path.join(folder, name) for name in ("file", "conf", "errors"))
    with open(served, "wb") as file:
        file.write(os.urandom(_FILE_BYTES))
    with open(configuration, "w", encoding="utf-8") as file:
        file.write(_NGINX.format(folder=folder, port=PORT))
    guest = Program(bed.a, program("nginx"), "-c", configuration, "-e", errors, netns=bed.guest_network(bed.a))
    return guest, served


def redis(bed):
    """redis at host a, and what asks it from the client: ask("get", "key")."""
    guest = Program(bed.a, program("redis-server"), "--port", PORT, "--bind", "0.0.0.0", "--protected-mode", "no",
                    "--save", "", "--dir", bed.scratch.path, "--enable-debug-command", "yes",
                    netns=bed.guest_network(bed.a))
    words = [*bed.net.inside("client"), program("redis-cli"), "-h", testbed.GUEST_IP, "-p", str(PORT)]

    def ask(*command):
        return subprocess.run([*words, *command], capture_output=True, text=True, check=False).stdout.strip()

    wait_for(lambda: ask("ping") == "PONG" or not bed.a.alive(guest.pid), "redis to answer")
    return guest, ask
