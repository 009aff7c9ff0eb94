// Package ordering moves rows and segments of rows: files for llama.cpp have heads
// in another order than those of Hugging Face.
package ordering

// Placed gives for each of n rows there its place among from, -1 for those that are
// not among them.
func Placed(from []int, n int) []int {
	to := make([]int, n)
	for i := range to {
		to[i] = -1
	}
	for i, r := range from {
		to[r] = i
	}
	return to
}

// Gather gives every line of so many values with its segments, all of a length, in
// an order: segment i is order[i] of values.
func Gather[T any](values []T, line int, order []int) []T {
	return moved(values, line, order, func(i int) (to, from int) { return i, order[i] })
}

// Scatter undoes Gather.
func Scatter[T any](values []T, line int, order []int) []T {
	return moved(values, line, order, func(i int) (to, from int) { return order[i], i })
}

func moved[T any](values []T, line int, order []int, where func(i int) (to, from int)) []T {
	out := make([]T, len(values))
	n := line / len(order)
	for l := 0; l < len(values); l += line {
		for i := range order {
			to, from := where(i)
			copy(out[l+to*n:][:n], values[l+from*n:][:n])
		}
	}
	return out
}
