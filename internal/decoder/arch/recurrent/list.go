// Package recurrent has architectures with mixers that keep a state: Mamba, linear
// attention, convolutions, alone or beside attention and experts.
package recurrent

import "github.com/golowbit/lowbit/internal/decoder/arch/spec"

// Architectures lists them all.
func Architectures() []*spec.Architecture {
	return []*spec.Architecture{
		mambaArch(), falconMambaArch(), mamba2Arch(), falconH1Arch(), nemotronHArch(), graniteHybridArch(),
		qwen3NextArch(), qwen35Arch(), qwen35MoEArch(), qwen35ImageArch(), qwen35MoEImageArch(), lfm2Arch(),
		minimaxArch(), bambaArch(), jambaArch(), lfm2MoEArch(),
	}
}
