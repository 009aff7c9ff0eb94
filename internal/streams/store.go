// Package streams keeps what a text is on its way through a model, gigabytes of
// float32: in memory as far as it may be there, the rest in a file.
package streams

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/tensor"
)

// ErrDamaged is wrapped by the error for a piece that does not come back from
// the file as it was written.
var ErrDamaged = errors.New("what was kept there has changed")

// Unlimited is the limit of a Store that needs no file.
const Unlimited = math.MaxInt64

// File is what a Store writes to.
type File interface {
	io.ReaderAt
	io.WriterAt
	Name() string
}

// Memory gives matrices of undefined content, and takes them back.
type Memory interface {
	Matrix(rows, cols int) *tensor.Matrix
	Release(*tensor.Matrix)
}

// Store keeps matrices in pieces. It is for one goroutine at a time. The same
// bits come back whether a piece was in memory or in the file.
type Store struct {
	memory Memory
	limit  int64 // bytes in memory
	open   func() (File, error)

	used int64 // bytes in memory
	file File
	size int64
	free map[int64][]int64 // places in the file by length
}

// Piece is a matrix in a Store.
type Piece struct {
	rows, cols int
	m          *tensor.Matrix // nil if it lies in the file
	at         int64
	sum        uint32 // CRC-32C of the bytes in the file
}

// Rows is how many rows the piece has.
func (p *Piece) Rows() int { return p.rows }

// Bytes is the size of the piece.
func (p *Piece) Bytes() int64 { return 4 * int64(p.rows) * int64(p.cols) }

// Holds reports whether what a frame has of the piece can be given to Done: any
// matrix if it lies in the file, otherwise its own.
func (p *Piece) Holds(m *tensor.Matrix) bool {
	return m.Rows == p.rows && m.Cols == p.cols && (p.m == nil || p.m == m)
}

// New returns an empty Store. Beyond limit bytes in memory it keeps pieces in a
// file, which open makes when the first is written; the Store does not close it.
func New(m Memory, limit int64, open func() (File, error)) *Store {
	return &Store{memory: m, limit: limit, open: open, free: map[int64][]int64{}}
}

// Used is how many bytes of pieces are in memory, and Spilled how long the file is.
func (s *Store) Used() int64    { return s.used }
func (s *Store) Spilled() int64 { return s.size }

// Put takes a matrix over, which must not be a view.
func (s *Store) Put(m *tensor.Matrix) (*Piece, error) {
	p := &Piece{rows: m.Rows, cols: m.Cols}
	if p.Bytes() <= s.limit-s.used {
		s.used += p.Bytes()
		p.m = s.fitted(m)
		return p, nil
	}
	if s.file == nil {
		f, err := s.open()
		if err != nil {
			return nil, err
		}
		s.file = f
	}
	p.at = s.place(p.Bytes())
	if err := s.write(p, m); err != nil {
		return nil, err
	}
	s.memory.Release(m)
	return p, nil
}

// fitted is m without the memory beyond it, which what Memory gives may have.
func (s *Store) fitted(m *tensor.Matrix) *tensor.Matrix {
	n := m.Rows * m.Cols
	if cap(m.Data) <= n+n/8 {
		return m
	}
	f := m.Clone()
	s.memory.Release(m)
	return f
}

// place finds room in the file.
func (s *Store) place(n int64) int64 {
	if list := s.free[n]; len(list) > 0 {
		at := list[len(list)-1]
		s.free[n] = list[:len(list)-1]
		return at
	}
	at := s.size
	s.size += n
	return at
}

var table = crc32.MakeTable(crc32.Castagnoli)

func (s *Store) write(p *Piece, m *tensor.Matrix) error {
	p.sum = 0
	at := p.at
	_, err := wire.EncodePieces(wire.F32, m.Data[:p.rows*p.cols], func(b []byte) error {
		p.sum = crc32.Update(p.sum, table, b)
		_, err := s.file.WriteAt(b, at)
		at += int64(len(b))
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %d bytes of what the text is between two blocks: %w", s.file.Name(), p.Bytes(), err)
	}
	return nil
}

// Load returns the content of a piece, to be given to Done.
func (s *Store) Load(p *Piece) (*tensor.Matrix, error) {
	if p.m != nil {
		return p.m, nil
	}
	m := s.memory.Matrix(p.rows, p.cols)
	err := s.read(p, m.Data[:p.rows*p.cols])
	if err != nil {
		s.memory.Release(m)
		return nil, fmt.Errorf("%s: bytes %d to %d: %w", s.file.Name(), p.at, p.at+p.Bytes(), err)
	}
	return m, nil
}

// read reads in steps that stay in the cache until they are summed.
func (s *Store) read(p *Piece, dst []float32) error {
	const step = 1 << 16
	at, sum := p.at, uint32(0)
	for len(dst) > 0 {
		part := dst[:min(step, len(dst))]
		err := wire.ReadBytes(s.file, at, part, func(b []byte) { sum = crc32.Update(sum, table, b) })
		if err != nil {
			return err
		}
		at += 4 * int64(len(part))
		dst = dst[len(part):]
	}
	if sum != p.sum {
		return fmt.Errorf("%w: CRC-32C %08x, want %08x", ErrDamaged, sum, p.sum)
	}
	return nil
}

// Done ends the use of what Load returned; changed says that the piece is to be
// as it is now.
func (s *Store) Done(p *Piece, m *tensor.Matrix, changed bool) error {
	if p.m != nil {
		return nil
	}
	var err error
	if changed {
		err = s.write(p, m)
	}
	s.memory.Release(m)
	return err
}

// Drop removes a piece. A matrix that Load has returned stays as it is.
func (s *Store) Drop(p *Piece) {
	if p.m != nil {
		s.used -= p.Bytes()
		p.m = nil
		return
	}
	s.free[p.Bytes()] = append(s.free[p.Bytes()], p.at)
}
