package weights

import "github.com/golowbit/lowbit/safetensors"

// Single shows F64 tensors as F32, rounded to nearest, ties to even; what is
// too large becomes an infinity. Where there are none it returns t itself.
func Single(t Tensors) Tensors {
	for _, name := range t.Names() {
		if info, _ := t.Info(name); info.DType == safetensors.F64 {
			return &single{t}
		}
	}
	return t
}

type single struct{ Tensors }

func (s *single) Info(name string) (safetensors.TensorInfo, bool) {
	t, ok := s.Tensors.Info(name)
	if t.DType == safetensors.F64 {
		t.DType = safetensors.F32
	}
	return t, ok
}

// doubles is how many values are converted at a time.
const doubles = 1 << 15

func (s *single) ReadAt(name string, p []byte, off int64) error {
	if t, ok := s.Tensors.Info(name); !ok || t.DType != safetensors.F64 {
		return s.Tensors.ReadAt(name, p, off)
	}
	t, _ := s.Info(name)
	if err := CheckRange(s, name, t.Size(), p, off); err != nil {
		return err
	}
	for len(p) > 0 {
		first, skip := off/4, int(off%4)
		n := min((skip+len(p)+3)/4, doubles)
		wide, narrow := make([]byte, 8*n), make([]byte, 4*n)
		if err := s.Tensors.ReadAt(name, wide, 8*first); err != nil {
			return err
		}
		values := make([]float32, n)
		if err := safetensors.DecodeFloat32(values, safetensors.F64, wide); err != nil {
			return err
		}
		if err := safetensors.EncodeFloat32(narrow, safetensors.F32, values); err != nil {
			return err
		}
		done := copy(p, narrow[skip:])
		p = p[done:]
		off += int64(done)
	}
	return nil
}
