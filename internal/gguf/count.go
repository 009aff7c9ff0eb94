package gguf

import "fmt"

// MaxCount bounds what the metadata may say: products of two such numbers fit
// an int of 64 bits, and no model comes near.
const MaxCount = 1 << 30

// Count reads an unsigned number, or an array with one entry for each layer if they
// are all the same; missing is returned if there is no such key, and with an error.
func (f *File) Count(key string, missing int) (int, error) {
	v, ok := f.Value(key)
	if !ok {
		return missing, nil
	}
	n, ok := countOf(v)
	if !ok {
		return missing, fmt.Errorf("key %q: a %T, want one number from 0 to %d", key, v, MaxCount)
	}
	return n, nil
}

func countOf(v any) (int, bool) {
	fits := func(u uint64) (int, bool) {
		if u > MaxCount {
			return 0, false // negative numbers too
		}
		return int(u), true
	}
	same := func(n int, at func(int) any) (int, bool) {
		if n == 0 {
			return 0, false
		}
		for i := range n {
			if at(i) != at(0) {
				return 0, false
			}
		}
		return countOf(at(0))
	}
	switch v := v.(type) {
	case uint8:
		return int(v), true
	case uint16:
		return int(v), true
	case uint32:
		return fits(uint64(v))
	case uint64:
		return fits(v)
	case int8:
		return fits(uint64(v))
	case int16:
		return fits(uint64(v))
	case int32:
		return fits(uint64(v))
	case int64:
		return fits(uint64(v))
	case []uint32:
		return same(len(v), func(i int) any { return v[i] })
	case []int32:
		return same(len(v), func(i int) any { return v[i] })
	}
	return 0, false
}
