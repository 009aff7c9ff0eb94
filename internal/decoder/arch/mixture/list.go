// Package mixture has architectures with experts: mixtures whose tokens go to some
// of many MLPs.
package mixture

import "github.com/golowbit/lowbit/internal/decoder/arch/spec"

// Architectures lists them all.
func Architectures() []*spec.Architecture {
	return []*spec.Architecture{
		mixtralArch(), qwen3MoEArch(), qwen2MoEArch(), olmoeArch(), phimoeArch(), graniteMoEArch(),
		graniteMoESharedArch(), gptOSSArch(), ernieMoEArch(), glm4MoEArch(), minimaxM2Arch(), deepseekV3Arch(),
		deepseekV2Arch(), dots1Arch(), hunyuanMoEArch(),
	}
}
