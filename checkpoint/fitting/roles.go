package fitting

import "regexp"

// stateProjections are linears of recurrent mixers that make a few numbers a token by which
// the state decays and is written: small, and what they get wrong stays in the state.
// Where a mixer has them in one matrix with the rest of its inputs (in_proj of Mamba-2),
// that is a layer like others. Routers and convolutions are no layers at all.
var stateProjections = regexp.MustCompile(`\.(mixer|mamba|linear_attn)\.(x_proj|dt_proj|in_proj_ba|in_proj_a|in_proj_b)$`)

// staysDense says why a layer is left dense unless a rule or Include names it; "" if it is not.
func (r *Rules) staysDense(name string) string {
	if !stateProjections.MatchString(name) {
		return ""
	}
	for _, e := range r.Include {
		if e.MatchString(name) {
			return ""
		}
	}
	return "it steers the state of a recurrent mixer (include or a rule by its name quantizes it)"
}
