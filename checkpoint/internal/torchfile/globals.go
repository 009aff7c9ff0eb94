package torchfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/safetensors"
)

func (g global) String() string { return g.module + "." + g.name }

// storageTypes are torch's storage classes, by the type of their elements.
var storageTypes = map[string]safetensors.DType{
	"DoubleStorage":       safetensors.F64,
	"FloatStorage":        safetensors.F32,
	"HalfStorage":         safetensors.F16,
	"BFloat16Storage":     safetensors.BF16,
	"LongStorage":         safetensors.I64,
	"IntStorage":          safetensors.I32,
	"ShortStorage":        safetensors.I16,
	"CharStorage":         safetensors.I8,
	"ByteStorage":         safetensors.U8,
	"BoolStorage":         safetensors.Bool,
	"ComplexFloatStorage": safetensors.C64,
}

// dtypes are torch's element types, for tensors over an untyped storage.
var dtypes = map[string]safetensors.DType{
	"float64":         safetensors.F64,
	"float32":         safetensors.F32,
	"float16":         safetensors.F16,
	"bfloat16":        safetensors.BF16,
	"int64":           safetensors.I64,
	"int32":           safetensors.I32,
	"int16":           safetensors.I16,
	"int8":            safetensors.I8,
	"uint8":           safetensors.U8,
	"uint16":          safetensors.U16,
	"uint32":          safetensors.U32,
	"uint64":          safetensors.U64,
	"bool":            safetensors.Bool,
	"complex64":       safetensors.C64,
	"float8_e4m3fn":   safetensors.F8E4M3,
	"float8_e5m2":     safetensors.F8E5M2,
	"float8_e4m3fnuz": safetensors.F8E4M3FNUZ,
	"float8_e5m2fnuz": safetensors.F8E5M2FNUZ,
	"float8_e8m0fnu":  safetensors.F8E8M0,
}

// plainGlobals stand as values and are never called.
var plainGlobals = []string{
	"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer",
	"torch.storage.TypedStorage", "torch.storage.UntypedStorage", "torch.UntypedStorage",
}

// callables are the globals that a pickle may call; call has what happens then.
var callables = []string{
	"collections.OrderedDict", "torch.Size", "torch.device",
	"_codecs.encode", "builtins.set", "__builtin__.set",
	"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
	"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
	"torch._tensor._rebuild_from_type_v2",
}

// findGlobal accepts a global that a pickle names.
func findGlobal(module, name string) (global, error) {
	g := global{module, name}
	full := g.String()
	if slices.Contains(plainGlobals, full) || slices.Contains(callables, full) {
		return g, nil
	}
	if _, ok := g.storage(); ok {
		return g, nil
	}
	if _, ok := dtypes[name]; ok && module == "torch" {
		return g, nil
	}
	return g, &fault{ErrGlobal, fmt.Sprintf("the pickle names %s: only tensors in plain dicts, lists and tuples are read, and nothing is run; save the state dict alone (torch.save(model.state_dict(), …)), or as safetensors", nameText(full))}
}

// storage is the element type of a storage class, "" for the untyped one.
func (g global) storage() (safetensors.DType, bool) {
	switch g.module {
	case "torch", "torch.cuda", "torch.storage":
	default:
		return "", false
	}
	if g.name == "UntypedStorage" {
		return "", true
	}
	t, ok := storageTypes[g.name]
	return t, ok && g.module != "torch.storage"
}

// call does for a global what the pickle would have it called for.
func (u *unpickler) call(g global, args tuple) (value, error) {
	switch g.String() {
	case "collections.OrderedDict":
		return u.orderedDict(args)
	case "torch.Size":
		if len(args) == 1 {
			if t, ok := args[0].(tuple); ok {
				return t, nil
			}
		}
		return opaque("a torch.Size"), nil
	case "torch.device":
		return opaque("a torch.device"), nil
	case "_codecs.encode":
		return opaque("bytes"), nil
	case "builtins.set", "__builtin__.set":
		return opaque("a set"), nil
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		return rebuildTensor(args)
	case "torch._utils._rebuild_tensor_v3":
		return rebuildTyped(args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if len(args) > 0 {
			if t, ok := args[0].(*tensor); ok {
				return t, nil
			}
		}
		return nil, invalidf("pickle: a parameter that is no tensor")
	case "torch._tensor._rebuild_from_type_v2":
		return u.rebuildFromType(args)
	}
	return nil, invalidf("pickle: a call of %s", g)
}

// orderedDict makes a dict, of a list of pairs as Python 2 wrote it or empty.
func (u *unpickler) orderedDict(args tuple) (value, error) {
	d := &dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, ok := args[0].(*list)
	if !ok {
		return nil, invalidf("pickle: an OrderedDict of %s", kindText(args[0]))
	}
	if err := u.spend(2 * len(pairs.items)); err != nil {
		return nil, err
	}
	for _, p := range pairs.items {
		var kv []value
		switch p := p.(type) {
		case tuple:
			kv = p
		case *list:
			kv = p.items
		}
		if len(kv) != 2 {
			return nil, invalidf("pickle: an OrderedDict with %s for a pair", kindText(p))
		}
		d.keys = append(d.keys, kv[0])
		d.values = append(d.values, kv[1])
	}
	return d, nil
}

// rebuildFromType is what tensors and parameters with Python attributes are
// wrapped in: function, class, the function's arguments, attributes.
func (u *unpickler) rebuildFromType(args tuple) (value, error) {
	if len(args) < 3 {
		return nil, invalidf("pickle: _rebuild_from_type_v2 with %d arguments", len(args))
	}
	f, ok1 := args[0].(global)
	class, ok2 := args[1].(global)
	inner, ok3 := args[2].(tuple)
	if !ok1 || !ok2 || !ok3 || !strings.HasPrefix(f.name, "_rebuild_tensor") && !strings.HasPrefix(f.name, "_rebuild_parameter") {
		return nil, invalidf("pickle: _rebuild_from_type_v2 of %s and %s", kindText(args[0]), kindText(args[1]))
	}
	if s := class.String(); s != "torch.Tensor" && !strings.HasPrefix(s, "torch.nn.parameter.") {
		return nil, invalidf("pickle: a tensor of class %s", class)
	}
	return u.call(f, inner)
}

// rebuildTensor takes storage, offset, size, stride and what is of no interest.
func rebuildTensor(args tuple) (value, error) {
	if len(args) < 4 {
		return nil, invalidf("pickle: a tensor of %d arguments, want 4 or more", len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, invalidf("pickle: a tensor over %s, want a storage", kindText(args[0]))
	}
	if s.dtype == "" {
		return nil, invalidf("pickle: a tensor without a type over an untyped storage")
	}
	return newTensor(s, s.dtype, args[1], args[2], args[3])
}

// rebuildTyped is rebuildTensor with the type as seventh argument.
func rebuildTyped(args tuple) (value, error) {
	if len(args) < 7 {
		return nil, invalidf("pickle: a typed tensor of %d arguments, want 7 or more", len(args))
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, invalidf("pickle: a tensor over %s, want a storage", kindText(args[0]))
	}
	g, ok := args[6].(global)
	t, known := dtypes[g.name]
	if !ok || !known || g.module != "torch" {
		return nil, invalidf("pickle: a tensor of type %s", kindText(args[6]))
	}
	return newTensor(s, t, args[1], args[2], args[3])
}
