package kernel

import (
	"math"
	"math/bits"
)

// MaxTrials is how many grids Trials tries at most.
const MaxTrials = 16

// TrialSums has what Trials finds of each trial. With d = value - weight and v the
// level of a weight under scale 1, all are weighted sums over the group.
type TrialSums struct {
	Err [MaxTrials]float32 // Σ d²
	DV  [MaxTrials]float32 // Σ d·v
	D   [MaxTrials]float32 // Σ d
	VV  [MaxTrials]float32 // Σ v²
	V   [MaxTrials]float32 // Σ v
}

// Trials rounds the weights x of a group on n grids of whole numbers, values
// scale·v - shift with v = clamp(round((x+shift)·(1/scale)), lo, hi). Sums are in float32,
// in the order of the weights; those beyond n mean nothing. As with SquareErr, a weight
// next to a tie may get the neighbouring code.
func Trials(sums *TrialSums, x, w []float32, scale, shift *[MaxTrials]float32, n int, lo, hi float32) {
	w = w[:len(x)]
	switch {
	case len(x) == 0 || level < AVX2:
		trialsGo(sums, x, w, scale, shift, n, lo, hi)
	case level >= AVX512 && n > 8:
		trialsAVX512(&sums.Err[0], &x[0], &w[0], len(x), &scale[0], &shift[0], lo, hi)
	default:
		for i := 0; i < min(n, MaxTrials); i += 8 {
			trialsAVX2(&sums.Err[i], &x[0], &w[0], len(x), &scale[i], &shift[i], lo, hi)
		}
	}
}

// Levels is a grid of 2 to 16 levels in ascending order.
type Levels struct {
	tree, levels [16]float32 // thresholds, numbered as in a heap
	mids         [16]float32 // mids[u] is the threshold between codes u and u+1
	cells        [256]uint8  // the code, or that below it, by where between the ends
	perUnit      float32
}

// NewLevels makes a grid of levels, which are apart by a hundredth of their range and
// more. Of two that are as near the upper one is taken.
func NewLevels(levels ...float32) *Levels {
	last := len(levels) - 1
	l := &Levels{perUnit: 256 / (levels[last] - levels[0])}
	for u := range l.levels {
		l.levels[u], l.mids[u] = levels[min(u, last)], float32(math.NaN()) // above nothing
		if u < last {
			l.mids[u] = (levels[u] + levels[u+1]) / 2
		}
	}
	for at := 1; at < 16; at++ {
		depth := bits.Len(uint(at)) - 1
		width := 16 >> depth
		l.tree[at] = l.mids[(at-1<<depth)*width+width/2-1]
	}
	u := uint8(0)
	for i := range l.cells {
		for levels[0]+(float32(i)-0.5)/l.perUnit >= l.mids[u] {
			u++
		}
		l.cells[i] = u
	}
	return l
}

// Code is the code of the level nearest to t; NaN gives code 0.
func (l *Levels) Code(t float32) uint8 {
	if !(t >= l.mids[0]) {
		return 0
	}
	i := 255
	if c := (t - l.levels[0]) * l.perUnit; c < 255 {
		i = int(c)
	}
	u := l.cells[i]
	if t >= l.mids[u&15] {
		u++
	}
	return u
}

// Level is the level of a code up to 15.
func (l *Levels) Level(code uint8) float32 { return l.levels[code&15] }

// TrialsLevels is Trials for grids of levels.
func TrialsLevels(sums *TrialSums, x, w []float32, scale, shift *[MaxTrials]float32, n int, l *Levels) {
	w = w[:len(x)]
	switch {
	case len(x) == 0 || level < AVX2:
		trialsLevelsGo(sums, x, w, scale, shift, n, l)
	case level >= AVX512 && n > 8:
		trialsLevelsAVX512(&sums.Err[0], &x[0], &w[0], len(x), &scale[0], &shift[0], &l.tree[0])
	default:
		for i := 0; i < min(n, MaxTrials); i += 8 {
			trialsLevelsAVX2(&sums.Err[i], &x[0], &w[0], len(x), &scale[i], &shift[i], &l.tree[0])
		}
	}
}

func trialsGo(sums *TrialSums, x, w []float32, scale, shift *[MaxTrials]float32, n int, lo, hi float32) {
	for i, s := range scale[:n] {
		m, inverse := shift[i], 1/s
		var e, dv, sd, vv, sv float32
		for j, t := range x {
			t += m
			u := roundEven(t * inverse)
			if !(u > lo) {
				u = lo
			}
			if !(u < hi) {
				u = hi
			}
			d := float32(s*u) - t
			wd, wu := float32(w[j]*d), float32(w[j]*u)
			e += float32(wd * d)
			dv += float32(wd * u)
			sd += wd
			vv += float32(wu * u)
			sv += wu
		}
		sums.Err[i], sums.DV[i], sums.D[i], sums.VV[i], sums.V[i] = e, dv, sd, vv, sv
	}
}

func trialsLevelsGo(sums *TrialSums, x, w []float32, scale, shift *[MaxTrials]float32, n int, l *Levels) {
	for i, s := range scale[:n] {
		m, inverse := shift[i], 1/s
		var e, dv, sd, vv, sv float32
		for j, t := range x {
			t += m
			u := l.levels[l.Code(t*inverse)&15]
			d := float32(s*u) - t
			wd, wu := float32(w[j]*d), float32(w[j]*u)
			e += float32(wd * d)
			dv += float32(wd * u)
			sd += wd
			vv += float32(wu * u)
			sv += wu
		}
		sums.Err[i], sums.DV[i], sums.D[i], sums.VV[i], sums.V[i] = e, dv, sd, vv, sv
	}
}
