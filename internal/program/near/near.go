// Package near says what tensors there are where one is missing.
package near

import (
	"fmt"
	"slices"
	"strings"
)

// Beside says what tensors of w lie where one is missing, the nearest only; "" if
// there are none or that is not known: w has no Names. Fused linears are told apart: they are
// another architecture's.
func Beside(w any, name string) string {
	l, ok := w.(interface{ Names() []string })
	if !ok {
		return ""
	}
	prefix := strings.TrimSuffix(name, ".weight")
	var near []string
	for len(near) == 0 && prefix != "" {
		prefix = prefix[:max(strings.LastIndexByte(strings.TrimSuffix(prefix, "."), '.')+1, 0)]
		if prefix == "" {
			return There(w)
		}
		for _, n := range l.Names() {
			if strings.HasPrefix(n, prefix) {
				near = append(near, n)
			}
		}
	}
	slices.Sort(near)
	isFused := func(n string) bool {
		return slices.ContainsFunc([]string{"qkv", "gate_up", "query_key_value", "pack", "c_attn", "kv_proj"}, func(s string) bool {
			return strings.Contains(strings.ToLower(n), s)
		})
	}
	const most = 6
	if fused := slices.DeleteFunc(slices.Clone(near), func(n string) bool { return !isFused(n) }); len(fused) > 0 {
		return fmt.Sprintf("; there is %s, several linears in one, which this architecture does not have: split it, or name the architecture that has it", strings.Join(fused[:min(len(fused), most)], ", "))
	}
	if len(near) > most {
		near = append(near[:most], "...")
	}
	return "; beside it there are: " + strings.Join(near, ", ")
}

// There says what tensors there are, for errors; "" if that is not known.
func There(w any) string {
	l, ok := w.(interface{ Names() []string })
	if !ok {
		return ""
	}
	all := l.Names()
	slices.Sort(all)
	const most = 4
	if len(all) > most {
		return fmt.Sprintf("; there are %d tensors: %s, ...", len(all), strings.Join(all[:most], ", "))
	}
	return fmt.Sprintf("; there are: %s", strings.Join(all, ", "))
}
