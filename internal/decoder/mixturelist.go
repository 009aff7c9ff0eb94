// Package mixture has architectures with experts: mixtures whose tokens go to some
// of many MLPs.
package decoder

// mixtureArchitectures lists them all.
func mixtureArchitectures() []*Architecture {
	return []*Architecture{
		mixtralArch(), qwen3MoEArch(), qwen2MoEArch(), olmoeArch(), phimoeArch(), graniteMoEArch(),
		graniteMoESharedArch(), gptOSSArch(), ernieMoEArch(), glm4MoEArch(), minimaxM2Arch(), deepseekV3Arch(),
		deepseekV2Arch(), dots1Arch(), hunyuanMoEArch(),
	}
}
