// Command gen writes the assembly of package kernel and the Go declarations
// of its functions. It is run by go generate in internal/kernel; its test
// compares what it writes with the files in the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	for name, text := range generate() {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "gen:", err)
			os.Exit(1)
		}
	}
}

// platforms lists the families of functions by architecture. Each becomes
// z<family>_<arch>.s and z<family>_<arch>_decl.go; zstub_no<arch>.go is for
// builds that have none of them.
var platforms = []struct {
	arch     string
	families []family
}{
	{"amd64", []family{
		{"gemm", gemmAMD64},
		{"pack", packAMD64},
		{"quantize", quantizeAMD64},
		{"powerr", powErrAMD64},
		{"squareerr", squareErrAMD64},
		{"trials", trialsAMD64},
		{"rows", rowsAMD64},
		{"half", halfAMD64},
		{"rtn", rtnAMD64},
		{"sweep", sweepAMD64},
		{"codes", codesAMD64},
		{"nibbles", nibblesAMD64},
		{"peak", peakAMD64},
	}},
	{"arm64", []family{
		{"gemm", gemmARM64},
		{"nibbles", nibblesARM64},
		{"peak", peakARM64},
	}},
}

type family struct {
	name  string
	write func(*file)
}

// generate returns the content of every generated file by name.
func generate() map[string][]byte {
	out := map[string][]byte{}
	for _, p := range platforms {
		constraint := p.arch + " && !purego"
		var files []*file
		for _, fam := range p.families {
			f := &file{}
			fam.write(f)
			name := "z" + fam.name + "_" + p.arch
			out[name+".s"] = f.assembly(constraint)
			out[name+"_decl.go"] = f.declarations(constraint)
			files = append(files, f)
		}
		out["zstub_no"+p.arch+".go"] = stubs("!"+p.arch+" || purego", files)
	}
	return out
}
