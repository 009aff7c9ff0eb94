// Package dense has architectures of attention and one MLP a block.
package dense

import "github.com/golowbit/lowbit/internal/decoder/arch/spec"

// Architectures lists them all.
func Architectures() []*spec.Architecture {
	return []*spec.Architecture{
		llamaArch(), mistralArch(), qwen2Arch(), qwen3Arch(), gemmaArch(), gemma2Arch(), gemma3Arch(),
		gemma3ImageArch(), phi3Arch(), smollm3Arch(), graniteArch(), olmoArch(), olmo2Arch(), olmo3Arch(),
		ministralArch(), ministral3Arch(), mistral3Arch(), stablelmArch(), seedOSSArch(), hunyuanArch(),
		cohereArch(), cohere2Arch(), starcoder2Arch(), glmArch(), glm4Arch(), nemotronArch(), exaone4Arch(),
		ernieArch(), arceeArch(), heliumArch(), apertusArch(), optArch(), neoxArch(), gpt2Arch(), phiArch(),
		falconArch(), bloomArch(), gptjArch(), bigcodeArch(), mptArch(),
	}
}
