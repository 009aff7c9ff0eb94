//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

func detect() Level {
	x := cpu.X86 // the package asks the operating system as well
	switch {
	case !(x.HasAVX2 && x.HasFMA && x.HasBMI2):
		return Generic
	case !(x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL):
		return AVX2
	case !x.HasAVX512BF16:
		return AVX512
	}
	return AVX512BF16
}
