package torchfile

import (
	"cmp"
	"slices"
)

const (
	shortRun = 4 << 10 // bytes: shorter runs are not worth a read of their own
	window   = 1 << 20 // bytes read at a time when gathering
)

// read fills p, which lies inside the tensor of size bytes.
func (f *File) read(t *place, name string, p []byte, off, size int64) error {
	width := int64(t.dtype.Bits() / 8)
	first := t.begin + (t.store.skip+t.offset)*width
	axes := t.axes()
	if t.contiguous() {
		return readFull(f.r, p, first+off)
	}
	inner := axes[len(axes)-1]
	if inner.step == 1 && int64(inner.n)*width >= shortRun {
		return f.readRuns(axes[:len(axes)-1], int64(inner.n)*width, width, first, p, off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gathered != name || f.data == nil {
		f.data = nil // the old one may go before the new one comes
		data := make([]byte, size)
		if err := f.gather(destined(axes, width), first, width, data); err != nil {
			return err
		}
		f.gathered, f.data = name, data
	}
	copy(p, f.data[off:])
	return nil
}

// readRuns reads a tensor whose rows of run bytes lie apart.
func (f *File) readRuns(outer []axis, run, width, first int64, p []byte, off int64) error {
	for len(p) > 0 {
		row, at := off/run, off%run
		begin := first + at
		for i := len(outer) - 1; i >= 0; i-- {
			n := int64(outer[i].n)
			begin += row % n * outer[i].step * width
			row /= n
		}
		n := min(int64(len(p)), run-at)
		if err := readFull(f.r, p[:n], begin); err != nil {
			return err
		}
		p = p[n:]
		off += n
	}
	return nil
}

// stride is an axis with its steps in bytes, in the file and in row-major order.
type stride struct{ n, from, to int64 }

// destined orders the axes by their step in the file, the widest first, so
// that the file is read from front to back.
func destined(axes []axis, width int64) []stride {
	s := make([]stride, len(axes))
	to := width
	for i := len(axes) - 1; i >= 0; i-- {
		s[i] = stride{int64(axes[i].n), axes[i].step * width, to}
		to *= int64(axes[i].n)
	}
	slices.SortStableFunc(s, func(a, b stride) int { return cmp.Compare(b.from, a.from) })
	return s
}

// reach is the number of bytes from the first element to the end of the last.
func reach(s []stride, width int64) int64 {
	for _, a := range s {
		width += (a.n - 1) * a.from
	}
	return width
}

// gather copies the elements that begin at first in the file to dst, in
// windows of the file.
func (f *File) gather(s []stride, first, width int64, dst []byte) error {
	if all := reach(s, width); all <= window || len(s) == 0 {
		return f.gatherWindow(s, first, width, all, dst)
	}
	outer, rest := s[0], s[1:]
	one := reach(rest, width)
	if one > window {
		for i := range outer.n {
			if err := f.gather(rest, first+i*outer.from, width, dst[i*outer.to:]); err != nil {
				return err
			}
		}
		return nil
	}
	// all > window, so that outer.from is not 0.
	count := (window-one)/outer.from + 1
	part := append([]stride(nil), s...)
	for i := int64(0); i < outer.n; i += count {
		part[0].n = min(count, outer.n-i)
		if err := f.gatherWindow(part, first+i*outer.from, width, reach(part, width), dst[i*outer.to:]); err != nil {
			return err
		}
	}
	return nil
}

func (f *File) gatherWindow(s []stride, first, width, size int64, dst []byte) error {
	src := make([]byte, size)
	if err := readFull(f.r, src, first); err != nil {
		return err
	}
	scatter(dst, src, s, width)
	return nil
}

func scatter(dst, src []byte, s []stride, width int64) {
	if len(s) == 0 {
		copy(dst[:width], src)
		return
	}
	a := s[0]
	if len(s) > 1 {
		for i := range a.n {
			scatter(dst[i*a.to:], src[i*a.from:], s[1:], width)
		}
		return
	}
	for i := range a.n {
		copy(dst[i*a.to:i*a.to+width], src[i*a.from:])
	}
}
