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

// generate returns the content of every generated file by name.
func generate() map[string][]byte {
	files := map[string][]byte{}
	add := func(name, constraint string, family func(*file)) {
		f := &file{}
		family(f)
		files[name+".s"] = f.assembly(constraint)
		files[name+"_decl.go"] = f.declarations(constraint)
	}
	const amd64 = "amd64 && !purego"
	add("zgemm_amd64", amd64, gemmAMD64)
	add("zpack_amd64", amd64, packAMD64)
	add("zquantize_amd64", amd64, quantizeAMD64)
	add("zpowerr_amd64", amd64, powErrAMD64)
	add("zsquareerr_amd64", amd64, squareErrAMD64)
	add("zrows_amd64", amd64, rowsAMD64)
	add("zhalf_amd64", amd64, halfAMD64)
	add("zrtn_amd64", amd64, rtnAMD64)
	add("zsweep_amd64", amd64, sweepAMD64)
	add("zpeak_amd64", amd64, peakAMD64)
	const arm64 = "arm64 && !purego"
	add("zgemm_arm64", arm64, gemmARM64)
	add("zpeak_arm64", arm64, peakARM64)
	return files
}
