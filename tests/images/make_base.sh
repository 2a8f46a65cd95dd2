#!/bin/sh
# Makes a base image from Debian's packages, for a machine that reaches them but no registry of images. As root:
#   apt-get install buildah debootstrap
#   tests/images/make_base.sh localhost/gdsd-base
# Without a runtime for containers buildah can still change its root: export BUILDAH_ISOLATION=chroot
set -eu
name=${1:?"name the base, such as localhost/gdsd-base"}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$folder"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
made=$(buildah from scratch)
buildah add "$made" "$folder" /
buildah config --cmd bash "$made"
buildah commit --rm "$made" "$name"
