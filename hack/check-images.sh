#!/usr/bin/env bash
# Checks the images that hack/build-images.sh builds from the programs in target/release: two builds are equal byte for byte, every digest
# is right, the user is not root, and each program starts with only the files of its image.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=$(mktemp -d)
chmod 755 "$folder"
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT

# unpack FILE FOLDER: checks an image's blobs, prints its entry point and unpacks its layer.
unpack() {
  python3 - "$1" "$2" <<'PYTHON'
import hashlib, json, sys, tarfile
archive = tarfile.open(sys.argv[1])
read = lambda name: archive.extractfile(name).read()
blob = lambda entry: read("blobs/sha256/" + entry["digest"].removeprefix("sha256:"))
for name in archive.getnames():
    if name.startswith("blobs/sha256/") and archive.getmember(name).isfile():
        assert hashlib.sha256(read(name)).hexdigest() == name.rsplit("/", 1)[1], f"{name}: the content has another digest"
manifest = json.loads(blob(json.loads(read("index.json"))["manifests"][0]))
config = json.loads(blob(manifest["config"]))
docker = json.loads(read("manifest.json"))[0]
layer = blob(manifest["layers"][0])
assert docker["Config"].endswith(manifest["config"]["digest"].removeprefix("sha256:")), "manifest.json names another configuration"
assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()], "the layer is not the configuration's"
assert config["config"]["User"] not in ("", "0", "root", "0:0"), "the image runs as root"
import io
with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
    assert all(not entry.mode & 0o6000 for entry in tar), "a program in the image changes its user"
    tar.extractall(sys.argv[2])
print(config["config"]["Entrypoint"][0])
PYTHON
}

# inside FOLDER USER COMMAND...: runs a command with the folder as its whole file system.
inside() {
  local root=$1 user=$2
  shift 2
  if [ "$(id -u)" = 0 ]; then
    env -i PATH=/usr/local/bin:/usr/bin:/bin "$(command -v chroot)" --userspec="$user" "$root" "$@"
  else
    env -i PATH=/usr/local/bin:/usr/bin:/bin "$(command -v unshare)" --map-root-user --root="$root" "$@"
  fi
}

say "the images, twice"
version=$(workspace_version)
for run in one two; do hack/build-images.sh --no-build --tag "$version" --tag again --out "$folder/$run"; done
for image in agent operator cli; do
  cmp "$folder/one/streamhouse-$image.tar" "$folder/two/streamhouse-$image.tar" || fail "two builds of the image $image differ"
  mkdir "$folder/$image"
  program=$(unpack "$folder/one/streamhouse-$image.tar" "$folder/$image") || fail "the image $image is damaged"
  said=$(inside "$folder/$image" 65532:65532 "$program" --version) || fail "$program does not start in its image"
  said=${said%%$'\n'*} # the agent's next line names the schema versions that it runs on
  [ "$said" = "$(basename "$program") $version" ] || fail "$program in its image says $said, not its name and $version"
  note "$said"
done
