package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// KV is one entry of the metadata. Value is a uint8, int8, uint16, int16,
// uint32, int32, uint64, int64, float32, float64, bool or string, or a slice
// of one of these.
type KV struct {
	Key   string
	Value any
}

// The value types of the format.
const (
	typeU8 uint32 = iota
	typeI8
	typeU16
	typeI16
	typeU32
	typeI32
	typeF32
	typeBool
	typeString
	typeArray
	typeU64
	typeI64
	typeF64
)

// valueBytes is the least number of bytes of a value of the type, 0 for
// types that do not exist.
func valueBytes(t uint32) int64 {
	switch t {
	case typeU8, typeI8, typeBool:
		return 1
	case typeU16, typeI16:
		return 2
	case typeU32, typeI32, typeF32:
		return 4
	case typeU64, typeI64, typeF64, typeString:
		return 8
	}
	return 0
}

// value reads a value of type t.
func (d *decoder) value(t uint32) (any, error) {
	if t != typeArray {
		return d.scalar(t)
	}
	elem, err := d.u32()
	if err != nil {
		return nil, err
	}
	if elem == typeArray {
		return nil, fmt.Errorf("array of arrays")
	}
	size := valueBytes(elem)
	if size == 0 {
		return nil, fmt.Errorf("array of unknown type %d", elem)
	}
	n, err := d.u64()
	if err != nil {
		return nil, err
	}
	if n > uint64(d.left()/size) {
		return nil, fmt.Errorf("array of %d elements, but %d bytes are left in the file", n, d.left())
	}
	switch elem {
	case typeU8:
		return readArray(d, n, decoder.bytesInto)
	case typeI8:
		return readArray(d, n, fixed[int8])
	case typeU16:
		return readArray(d, n, fixed[uint16])
	case typeI16:
		return readArray(d, n, fixed[int16])
	case typeU32:
		return readArray(d, n, fixed[uint32])
	case typeI32:
		return readArray(d, n, fixed[int32])
	case typeF32:
		return readArray(d, n, fixed[float32])
	case typeU64:
		return readArray(d, n, fixed[uint64])
	case typeI64:
		return readArray(d, n, fixed[int64])
	case typeF64:
		return readArray(d, n, fixed[float64])
	case typeBool:
		return readArray(d, n, func(d decoder, v []bool) error {
			for i := range v {
				b, err := d.u8()
				if err != nil {
					return err
				}
				v[i] = b != 0
			}
			return nil
		})
	}
	return readArray(d, n, func(d decoder, v []string) (err error) {
		for i := range v {
			if v[i], err = d.string(); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
		return nil
	})
}

func readArray[T any](d *decoder, n uint64, fill func(decoder, []T) error) (any, error) {
	v := make([]T, n)
	if err := fill(*d, v); err != nil {
		return nil, err
	}
	return v, nil
}

func (d decoder) bytesInto(v []uint8) error { return d.fill(v) }

func fixed[T int8 | uint16 | int16 | uint32 | int32 | float32 | uint64 | int64 | float64](d decoder, v []T) error {
	const chunk = 4096
	width := binary.Size(T(0))
	buf := make([]byte, min(chunk, len(v))*width)
	for len(v) > 0 {
		n := min(chunk, len(v))
		if err := d.fill(buf[:n*width]); err != nil {
			return err
		}
		if _, err := binary.Decode(buf[:n*width], binary.LittleEndian, v[:n]); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

func (d *decoder) scalar(t uint32) (any, error) {
	if t == typeString {
		return d.string()
	}
	size := valueBytes(t)
	if size == 0 {
		return nil, fmt.Errorf("unknown value type %d", t)
	}
	var b [8]byte
	if err := d.fill(b[:size]); err != nil {
		return nil, err
	}
	u := binary.LittleEndian.Uint64(b[:])
	switch t {
	case typeU8:
		return uint8(u), nil
	case typeI8:
		return int8(u), nil
	case typeU16:
		return uint16(u), nil
	case typeI16:
		return int16(u), nil
	case typeU32:
		return uint32(u), nil
	case typeI32:
		return int32(u), nil
	case typeF32:
		return math.Float32frombits(uint32(u)), nil
	case typeBool:
		return u != 0, nil
	case typeU64:
		return u, nil
	case typeI64:
		return int64(u), nil
	}
	return math.Float64frombits(u), nil
}

// putValue appends the type and the value.
func putValue(b *bytes.Buffer, v any) error {
	put := func(t uint32, data any) error {
		putU32(b, t)
		return binary.Write(b, binary.LittleEndian, data)
	}
	array := func(t uint32, n int, data any) error {
		putU32(b, typeArray)
		putU32(b, t)
		putU64(b, uint64(n))
		return binary.Write(b, binary.LittleEndian, data)
	}
	switch v := v.(type) {
	case uint8:
		return put(typeU8, v)
	case int8:
		return put(typeI8, v)
	case uint16:
		return put(typeU16, v)
	case int16:
		return put(typeI16, v)
	case uint32:
		return put(typeU32, v)
	case int32:
		return put(typeI32, v)
	case float32:
		return put(typeF32, v)
	case bool:
		return put(typeBool, v)
	case uint64:
		return put(typeU64, v)
	case int64:
		return put(typeI64, v)
	case float64:
		return put(typeF64, v)
	case string:
		putU32(b, typeString)
		putString(b, v)
		return nil
	case []uint8:
		return array(typeU8, len(v), v)
	case []int8:
		return array(typeI8, len(v), v)
	case []uint16:
		return array(typeU16, len(v), v)
	case []int16:
		return array(typeI16, len(v), v)
	case []uint32:
		return array(typeU32, len(v), v)
	case []int32:
		return array(typeI32, len(v), v)
	case []float32:
		return array(typeF32, len(v), v)
	case []bool:
		return array(typeBool, len(v), v)
	case []uint64:
		return array(typeU64, len(v), v)
	case []int64:
		return array(typeI64, len(v), v)
	case []float64:
		return array(typeF64, len(v), v)
	case []string:
		putU32(b, typeArray)
		putU32(b, typeString)
		putU64(b, uint64(len(v)))
		for _, s := range v {
			putString(b, s)
		}
		return nil
	}
	return fmt.Errorf("a value of type %T cannot be stored", v)
}

func putU32(b *bytes.Buffer, v uint32) { b.Write(binary.LittleEndian.AppendUint32(nil, v)) }
func putU64(b *bytes.Buffer, v uint64) { b.Write(binary.LittleEndian.AppendUint64(nil, v)) }

func putString(b *bytes.Buffer, s string) {
	putU64(b, uint64(len(s)))
	b.WriteString(s)
}
