package streams

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

// plain is Memory without reuse.
type plain struct{}

func (plain) Matrix(rows, cols int) *tensor.Matrix { return tensor.New(rows, cols) }
func (plain) Release(*tensor.Matrix)               {}

func newStore(t *testing.T, limit int64) (*Store, *os.File) {
	f, err := os.Create(filepath.Join(t.TempDir(), "streams"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return New(plain{}, limit, func() (File, error) { return f, nil }), f
}

func random(rng *rand.Rand, rows, cols int) *tensor.Matrix {
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = rng.Float32()
	}
	return m
}

// A Store is used at random beside a plain map.
func TestStore(t *testing.T) {
	for _, limit := range []int64{0, 3000, Unlimited} {
		rng := rand.New(rand.NewPCG(1, uint64(limit)))
		s, _ := newStore(t, limit)
		want := map[*Piece]*tensor.Matrix{}
		most := int64(0)
		for range 2000 {
			switch k := rng.IntN(4); {
			case k == 0 && len(want) < 20:
				m := random(rng, 1+rng.IntN(9), 20)
				content := m.Clone()
				p, err := s.Put(m)
				require.NoError(t, err)
				want[p] = content
			default:
				for p, content := range want { // any
					m, err := s.Load(p)
					require.NoError(t, err)
					require.Equal(t, content.Data, m.Data[:len(content.Data)])
					switch k {
					case 1:
						m.Data[0] = rng.Float32()
						want[p].Data[0] = m.Data[0]
						require.NoError(t, s.Done(p, m, true))
					case 2:
						require.NoError(t, s.Done(p, m, false))
					case 3:
						s.Drop(p)
						delete(want, p)
					}
					break
				}
			}
			require.LessOrEqual(t, s.Used(), limit)
			all := int64(0)
			for p := range want {
				all += p.Bytes()
			}
			most = max(most, all)
		}
		if limit == Unlimited {
			require.Zero(t, s.Spilled())
		} else {
			require.Positive(t, s.Spilled())
			require.Less(t, s.Spilled(), 9*most) // places are used again
		}
	}
}

func TestDamage(t *testing.T) {
	s, f := newStore(t, 0)
	p, err := s.Put(random(rand.New(rand.NewPCG(1, 1)), 5, 7))
	require.NoError(t, err)
	q, err := s.Put(random(rand.New(rand.NewPCG(1, 1)), 5, 7))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, p.at+77)
	require.NoError(t, err)
	_, err = s.Load(p)
	require.ErrorIs(t, err, ErrDamaged)
	require.ErrorContains(t, err, f.Name())
	_, err = s.Load(q)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(p.Bytes()))
	_, err = s.Load(q)
	require.ErrorContains(t, err, "EOF")
}

type full struct{ *os.File }

func (full) WriteAt([]byte, int64) (int, error) { return 0, syscall.ENOSPC }

func TestFullDisk(t *testing.T) {
	_, f := newStore(t, 0)
	s := New(plain{}, 0, func() (File, error) { return full{f}, nil })
	_, err := s.Put(tensor.New(3, 4))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, f.Name())
	s = New(plain{}, 0, func() (File, error) { return nil, errors.New("no folder") })
	_, err = s.Put(tensor.New(3, 4))
	require.ErrorContains(t, err, "no folder")
}
