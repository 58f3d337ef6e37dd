#!/usr/bin/env bash
# Produces and consumes a whole dictionary and checks that the output is equal to the input, byte for byte.
#
#   hack/real-input.sh         Webster's Second International of 1934: 234,937 lines, from Debian's package miscfiles
#   hack/real-input.sh FILE    a text file of your own; its last line must end with a line feed
#
# Starts an agent with --dev, three members of a consumer group, and a producer that reads the file, all with the command line. Then sorts
# the lines that the members printed by the offsets that the producer reported, and compares them with the file. Runs on free ports of
# 127.0.0.1 in a temporary folder and leaves nothing behind.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
need_rust
export CALLED_FROM
exec cargo run --quiet --package xtask -- real-input "$@"
