// Package enginetest holds the tests that run other people's engines on
// checkpoints written here and compare what they compute with what the
// project computes. It has no code of its own.
//
// llama.cpp runs through npm's node-llama-cpp, which ships it built. The tests
// need Node and the environment variable LOWBIT_LLAMACPP, the folder whose
// node_modules holds the packages; .ci/llamacpp.sh installs them and prints
// the setting. Without it the tests are skipped.
package enginetest
