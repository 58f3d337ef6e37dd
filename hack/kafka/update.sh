#!/usr/bin/env bash
# Writes jars.sha256 anew, after a change of pom.xml: the files that Maven downloads for it and their digests.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

{ have mvn && have java; } || apt_install maven default-jdk-headless
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mvn -q -B -f hack/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$folder"
(cd "$folder" && sha256sum -- *.jar) >hack/kafka/jars.sha256
note "see git diff hack/kafka"
