#!/bin/sh
# Installs llama.cpp, as npm's node-llama-cpp ships it built for linux-x64, into
# a cache and prints the setting that the tests of internal/enginetest want:
#
#	eval "$(.ci/llamacpp.sh)"
#
# Nothing is compiled and no install script runs. Prints nothing, and says why
# on standard error, where the engine cannot be had; the tests are then skipped.
set -eu
version=3.22.1
dir=${XDG_CACHE_HOME:-$HOME/.cache}/lowbit-tests/node-llama-cpp-$version

if [ "$(uname -sm)" != "Linux x86_64" ]; then
	echo "llama.cpp: not on linux-x64, its tests will be skipped" >&2
	exit 0
fi
for tool in node npm; do
	if ! command -v $tool >/dev/null; then
		echo "llama.cpp: no $tool, its tests will be skipped" >&2
		exit 0
	fi
done
if [ ! -e "$dir/complete" ]; then
	rm -rf "$dir"
	mkdir -p "$dir"
	echo '{"private": true}' >"$dir/package.json"
	npm install --prefix "$dir" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error \
		"node-llama-cpp@$version" "@node-llama-cpp/linux-x64@$version" >&2
	touch "$dir/complete"
fi
# Its AMX kernels compute experts and latent attention in Q8_0 wrongly, or as NaN; the
# next best variant does not.
rm -f "$dir/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-cpu-sapphirerapids.so"
echo "export LOWBIT_LLAMACPP='$dir'"
