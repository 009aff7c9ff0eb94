package checkpoint

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
)

// slot is where a tensor lies in one that holds several; see layout.Stacker.
type slot struct {
	stack string
	off   int64
}

// stack puts tensors of the plan together that the format holds in one, which stands
// where its first was.
func (p *plannedFile) stack(plan []layout.Spec, of func(name string) (stack string, at int, ok bool)) ([]layout.Spec, error) {
	members, places := map[string][]layout.Spec{}, map[string][]int{}
	var out []layout.Spec
	for _, s := range plan {
		stack, at, ok := of(s.Name)
		if !ok {
			out = append(out, s)
			continue
		}
		if members[stack] == nil {
			out = append(out, layout.Spec{Name: stack})
		}
		members[stack], places[stack] = append(members[stack], s), append(places[stack], at)
	}
	for i := range out {
		name := out[i].Name
		for k, s := range members[name] {
			first := members[name][0]
			if s.DType != first.DType || !slices.Equal(s.Shape, first.Shape) {
				return nil, fmt.Errorf("format %s: tensor %q %v %v, %q %v %v: %w", p.format.Name(), s.Name, s.DType, s.Shape, first.Name, first.DType, first.Shape,
					layout.Unsupported("they lie in one tensor, %s: quantize them alike, or neither", name))
			}
			p.slots[s.Name] = slot{name, int64(places[name][k]) * s.Bytes()}
			out[i].DType, out[i].Shape = s.DType, append([]int{len(members[name])}, s.Shape...)
		}
		if at := slices.Sorted(slices.Values(places[name])); len(at) > 0 && (at[0] != 0 || at[len(at)-1] != len(at)-1 || len(slices.Compact(at)) < len(members[name])) {
			return nil, fmt.Errorf("format %s: %w", p.format.Name(), layout.Unsupported("tensor %s is to have the places %v: quantize all of them, or none", name, at))
		}
	}
	return out, nil
}

// write writes bytes of a tensor to where it lies.
func (p *plannedFile) write(name string, data []byte, off int64) error {
	if s, ok := p.slots[name]; ok {
		name, off = s.stack, s.off+off
	}
	return p.out.WriteAt(name, data, off)
}
