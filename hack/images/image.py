#!/usr/bin/env python3
"""Writes a container image as one tar file, without a daemon, without root and from nothing but files of this machine.

Called by hack/build-images.sh. The file is an OCI layout and a `docker save` archive at once, so that `ctr images import`,
`docker load` and `kind load image-archive` take it. The same files make the same image, byte for byte: entries are sorted and
belong to root but for folders that are given to others, times are fixed. Programs bring along the shared libraries that ldd names for them.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PASSWD = """root:x:0:0:root:/:/sbin/nologin
postgres:x:999:999:postgres:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
"""
GROUP = """root:x:0:
postgres:x:999:
nonroot:x:65532:
"""
CERTIFICATES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]


class Root:
    """The file tree of an image, by path without the leading slash."""

    def __init__(self):
        self.files = {}
        self.links = {}
        self.folders = {"": 0o755}
        self.owners = {}

    def folder(self, path, mode=0o755):
        path = path.strip("/")
        if path not in self.folders:
            self.parents(path)
            self.folders[path] = mode

    def owned_folder(self, path, owner):
        self.folder(path)
        self.owners[path.strip("/")] = owner

    def parents(self, path):
        parent = os.path.dirname(path.strip("/"))
        if parent not in self.folders:
            self.folder(parent)

    def file(self, path, content, mode=0o644):
        self.parents(path)
        self.files[path.strip("/")] = (content, mode)

    def copy(self, source, path):
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        with open(source, "rb") as file:
            content = file.read()
        # Python's bytecode holds the time of its source, which is fixed here, as all times are.
        if path.endswith(".pyc") and content[4:8] == bytes(4):
            content = content[:8] + bytes(4) + content[12:]
        self.file(path, content, mode)

    def tree(self, source, path):
        """Copies a folder; symbolic links that leave it become what they point to."""
        for folder, _, names in os.walk(source):
            inside = os.path.normpath(os.path.join(path, os.path.relpath(folder, source)))
            self.folder(inside)
            for name in names:
                self.copy(os.path.join(folder, name), os.path.join(inside, name))

    def program(self, source, path):
        self.copy(source, path)
        for library in libraries(source):
            self.copy(library, library)

    def layer(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(filter(None, {*self.folders, *self.files, *self.links})):
                entry = tarfile.TarInfo(path)
                entry.uid, entry.gid = self.owners.get(path, (0, 0))
                content = b""
                if path in self.folders:
                    entry.type, entry.mode = tarfile.DIRTYPE, self.folders[path]
                elif path in self.links:
                    entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, self.links[path]
                else:
                    content, entry.mode = self.files[path]
                    entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()


def libraries(program):
    """The shared libraries of a program, the loader too; none for a static one."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    if "not found" in said.stdout:
        sys.exit(f"error: a library of {program} is missing:\n{said.stdout}")
    return sorted(set(re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said.stdout, re.MULTILINE)))


def base(root):
    """What every program may look for: names of users, how names are resolved, whom to trust, a folder for temporary files."""
    root.file("etc/passwd", PASSWD.encode())
    root.file("etc/group", GROUP.encode())
    root.file("etc/nsswitch.conf", b"hosts: files dns\n")
    root.folder("tmp", 0o1777)
    trusted = next((path for path in CERTIFICATES if os.path.exists(path)), None)
    if trusted is None:
        sys.exit("error: no certificates to trust on this machine: install the package ca-certificates")
    root.copy(trusted, "etc/ssl/certs/ca-certificates.crt")


def digest(content):
    return hashlib.sha256(content).hexdigest()


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(output, names, layer, config):
    """The archive: blobs by their digest, `index.json` for OCI and `manifest.json` for Docker."""
    config_blob = encode(config)
    descriptor = lambda kind, blob: {"mediaType": kind, "digest": "sha256:" + digest(blob), "size": len(blob)}
    manifest = encode({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config_blob),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {**descriptor("application/vnd.oci.image.manifest.v1+json", manifest), "annotations": {
            "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}} for name in names]}
    docker = [{"Config": "blobs/sha256/" + digest(config_blob), "RepoTags": names, "Layers": ["blobs/sha256/" + digest(layer)]}]
    root = Root()
    for blob in (layer, config_blob, manifest):
        root.file("blobs/sha256/" + digest(blob), blob)
    root.file("oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
    root.file("index.json", encode(index))
    root.file("manifest.json", encode(docker))
    with open(output + ".new", "wb") as file:
        file.write(root.layer())
    os.replace(output + ".new", output)
    return digest(manifest)


def pair(text):
    source, separator, target = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A=B")
    return source, target


def owned(text):
    path, owner = pair(text)
    if not re.fullmatch(r"\d+:\d+", owner):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form PATH=USER:GROUP, with numbers")
    return path, tuple(map(int, owner.split(":")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="the tar file to write")
    parser.add_argument("--name", action="append", required=True, help="the image's name with its tag; may be given several times")
    parser.add_argument("--program", action="append", default=[], type=pair, metavar="SOURCE=PATH", help="with its libraries")
    parser.add_argument("--file", action="append", default=[], type=pair, metavar="SOURCE=PATH")
    parser.add_argument("--tree", action="append", default=[], type=pair, metavar="SOURCE=PATH", help="a whole folder")
    parser.add_argument("--folder", action="append", default=[], type=owned, metavar="PATH=USER:GROUP",
                        help="an empty folder that belongs to this user; a volume of Docker that is mounted there will too")
    parser.add_argument("--link", action="append", default=[], type=pair, metavar="PATH=TARGET", help="a symbolic link")
    parser.add_argument("--entrypoint", action="append", required=True, help="a word of the command; given once for each word")
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("--env", action="append", default=[], type=pair, metavar="NAME=VALUE")
    parser.add_argument("--port", action="append", default=[], help="such as 8080/tcp")
    parser.add_argument("--label", action="append", default=[], type=pair, metavar="NAME=VALUE")
    parser.add_argument("--created", default="1970-01-01T00:00:00Z")
    arguments = parser.parse_args()

    root = Root()
    base(root)
    for source, path in arguments.tree:
        root.tree(source, path)
    for source, path in arguments.file:
        root.copy(source, path)
    for source, path in arguments.program:
        root.program(source, path)
    for path, target in arguments.link:
        root.parents(path)
        root.links[path.strip("/")] = target
    for path, owner in arguments.folder:
        root.owned_folder(path, owner)
    layer = root.layer()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": arguments.created,
        "config": {
            "User": arguments.user,
            "Entrypoint": arguments.entrypoint,
            "Env": [f"{name}={value}" for name, value in {"PATH": "/usr/local/bin:/usr/bin:/bin", **dict(arguments.env)}.items()],
            "WorkingDir": "/",
            "ExposedPorts": {port: {} for port in arguments.port},
            "Labels": dict(arguments.label),
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(layer)]},
        "history": [{"created": arguments.created, "created_by": "hack/build-images.sh"}],
    }
    identity = write(arguments.output, arguments.name, layer, config)
    print(f"{arguments.output}: {', '.join(arguments.name)} sha256:{identity[:12]}, {len(layer) // 1024 // 1024} MiB")


if __name__ == "__main__":
    main()
