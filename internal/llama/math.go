package llama

import "math"

// expSum replaces each element v of x by exp(v - shift), shift being at least
// the largest, and returns their sum. It errs by 2 units in the last place;
// what should be less than exp(-87) becomes that, about 1e-38.
func expSum(x []float32, shift float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2hi = 0.693359375
		ln2lo = -2.12194440e-4
		magic = 3 << 22 // adding and subtracting it rounds to an integer
	)
	var sum [4]float32
	for i, v := range x {
		v = max(v-shift, -87)
		n := float32(v*log2e) + magic - magic
		r := v - float32(n*ln2hi) - float32(n*ln2lo) // v = n ln 2 + r
		p := float32(1.9875691500e-4)
		p = float32(p*r) + 1.3981999507e-3
		p = float32(p*r) + 8.3334519073e-3
		p = float32(p*r) + 4.1665795894e-2
		p = float32(p*r) + 1.6666665459e-1
		p = float32(p*r) + 5.0000001201e-1
		p = float32(float32(p*r)*r) + r + 1
		p *= math.Float32frombits(uint32(int32(n)+127) << 23)
		x[i] = p
		sum[i%4] += p
	}
	return (sum[0] + sum[1]) + (sum[2] + sum[3])
}
