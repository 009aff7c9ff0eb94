// Package lattice finds the even spacing of values that were of a few bits before:
// those of a group under one scale and minimum.
package lattice

import (
	"math"
)

// Most is how many scales Scales returns at most.
const Most = 3

// Longest is how many values share a scale and minimum in other formats, at most.
const Longest = 256

// Scales returns scales under which x lies close to integers of at most top in magnitude
// although the values are m + d·q, not d·q alone: d over integers, each brought to what fits
// its integers best. There are none unless x has at most half as many values as
// elements, evenly spaced, and x is no longer than Longest.
func Scales(x []float32, top float32) (scales [Most]float32, n int) {
	if len(x) > Longest || !few(x) {
		return scales, 0
	}
	d, low, high := spacing(x)
	if d == 0 {
		return scales, 0
	}
	most := max(-low, high)
	// All values miss the integers by what the least one does.
	rest, last := float64(low)/float64(d), int(top*d/most)
	var costs [Most]float64
	for k := last; k > 0; k-- {
		miss := float64(k) * rest
		cost := math.Abs(miss-math.Round(miss)) / float64(k)
		at := n
		for at > 0 && cost < costs[at-1] {
			at--
		}
		if at == Most {
			continue
		}
		n = min(n+1, Most)
		copy(costs[at+1:n], costs[at:])
		copy(scales[at+1:n], scales[at:])
		costs[at], scales[at] = cost, d/float32(k)
	}
	for i, s := range scales[:n] {
		if s = fitted(x, s); s > 0 && most <= s*(top+0.5) {
			scales[i] = s
		}
	}
	return scales, n
}

// spacing is the distance of the values of x, or 0, and the least and the largest.
func spacing(x []float32) (d, low, high float32) {
	var work [Longest]float32
	n := 0 // values so far, in order
	for _, v := range x {
		at := n
		for at > 0 && work[at-1] > v {
			at--
		}
		if at > 0 && work[at-1] == v {
			continue
		}
		if 2*(n+1) > len(x) {
			return 0, 0, 0
		}
		n++
		copy(work[at+1:n], work[at:])
		work[at] = v
	}
	if n < 2 {
		return 0, 0, 0
	}
	values := work[:n]
	least := float32(math.Inf(1))
	for i, v := range values[1:] {
		least = min(least, v-values[i])
	}
	const tolerance = 0.1 // the values may have been rounded to half floats
	steps := 0.0
	for i, v := range values[1:] {
		q := float64(v-values[i]) / float64(least)
		r := math.Round(q)
		if math.Abs(q-r) > tolerance {
			return 0, 0, 0
		}
		steps += r
	}
	low, high = values[0], values[n-1]
	return float32(float64(high-low) / steps), low, high
}

// few is false if x has more than half as many values as elements for certain: that many
// places are taken where their bits put them. It is quick.
func few(x []float32) bool {
	var places [4]uint64
	taken := 0
	for _, v := range x {
		h := math.Float32bits(v) * 0x9e3779b1 >> 24
		p, bit := &places[h>>6], uint64(1)<<(h&63)
		if *p&bit == 0 {
			*p |= bit
			if taken++; 2*taken > len(x) {
				return false
			}
		}
	}
	return true
}

// fitted is the scale that fits the integers nearest to x/s best.
func fitted(x []float32, s float32) float32 {
	var xq, qq float64
	by := 1 / float64(s)
	for _, v := range x {
		q := math.RoundToEven(float64(v) * by)
		xq += float64(v) * q
		qq += q * q
	}
	return float32(xq / qq)
}
