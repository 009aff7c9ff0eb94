package kernel

import "os"

// Level names a set of instructions, in ascending order within a platform.
type Level int

const (
	Generic    Level = iota // plain Go
	NEON                    // arm64
	AVX2                    // amd64: AVX2, FMA, F16C
	AVX512                  // amd64: AVX-512 F, BW, DQ, VL
	AVX512BF16              // amd64: AVX512 with bfloat16 dot products
)

var levelNames = [...]string{"generic", "neon", "avx2", "avx512", "avx512bf16"}

func (l Level) String() string { return levelNames[l] }

// level is what this process uses. Only tests change it after start.
var level = capLevel(detect(), os.Getenv("LOWBIT_CPU"))

// Active returns the level in use: the best the CPU and the operating system
// support, capped by the environment variable LOWBIT_CPU, which may be
// generic, avx2, avx512 or avx512bf16. Other values are ignored.
func Active() Level { return level }

// HasBF16 tells whether products of bfloat16 run on dot-product instructions.
func HasBF16() bool { return level >= AVX512BF16 }

// noAssembly is the panic of a function whose assembly is not in this build.
const noAssembly = "kernel: no assembly for this level on this platform"

func capLevel(have Level, name string) Level {
	for l, s := range levelNames {
		if s == name && Level(l) < have {
			return Level(l)
		}
	}
	return have
}

// whole returns how many of n elements make whole vectors at this level.
// Vector code takes these; the rest of a row goes to the twin.
func whole(n int) int {
	switch {
	case level >= AVX512:
		return n &^ 15
	case level == AVX2:
		return n &^ 7
	}
	return 0
}
