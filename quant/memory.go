package quant

// Sized is implemented by methods that know how much memory they need.
type Sized interface {
	// Memory is how many bytes Quantize needs at most for a weight [out, in],
	// beside the weight and the calibration, what it leaves in the calibration's
	// Memo, and what products pack, which is up to 2 MiB a worker.
	Memory(out, in int) int64
}

// Memory implements Sized.
func (RTN) Memory(out, in int) int64 { return 20 * int64(out) * int64(in) }

// Memory is what q says it needs for a weight [out, in]. For methods that are not
// Sized it assumes four matrices as large as the weight and two as large as H.
func Memory(q Quantizer, out, in int) int64 {
	if s, ok := q.(Sized); ok {
		return s.Memory(out, in)
	}
	n := int64(in)
	return 16*int64(out)*n + 8*n*n
}
