package kernel

var genericBlocking = blocking{mr: 4, nr: 4, kc: 256, mc: 64, nc: 1024}

// microkernelGo computes c = alpha*Σ_p a_ip·b_pj, added to c if add is set,
// for the 4 x 4 tile of genericBlocking: two passes of 4 x 2, whose eight
// sums are as many as stay in registers.
func microkernelGo(k int, a []float32, rs, cs int, b []float32, c []float32, ldc int, alpha float32, add bool) {
	var acc [16]float32
	if cs == 1 {
		tileByRows(k, a, rs, b, &acc)
	} else {
		tileByColumns(k, a, b, &acc)
	}
	for i := range 4 {
		row := c[i*ldc : i*ldc+4]
		for j := range row {
			v := float32(alpha * acc[4*i+j])
			if add {
				v += row[j]
			}
			row[j] = v
		}
	}
}

func tileByRows(k int, a []float32, rs int, b []float32, acc *[16]float32) {
	a0, a1, a2, a3 := a[:k], a[rs:rs+k], a[2*rs:2*rs+k], a[3*rs:3*rs+k]
	for h := 0; h < 4; h += 2 {
		var c00, c01, c10, c11, c20, c21, c30, c31 float32
		q := b[h : 4*k-2+h]
		for p := range a0 {
			b0, b1 := q[0], q[1]
			x := a0[p]
			c00 += float32(x * b0)
			c01 += float32(x * b1)
			x = a1[p]
			c10 += float32(x * b0)
			c11 += float32(x * b1)
			x = a2[p]
			c20 += float32(x * b0)
			c21 += float32(x * b1)
			x = a3[p]
			c30 += float32(x * b0)
			c31 += float32(x * b1)
			if len(q) < 6 {
				break
			}
			q = q[4:]
		}
		acc[h], acc[h+1] = c00, c01
		acc[4+h], acc[5+h] = c10, c11
		acc[8+h], acc[9+h] = c20, c21
		acc[12+h], acc[13+h] = c30, c31
	}
}

func tileByColumns(k int, a, b []float32, acc *[16]float32) {
	for h := 0; h < 4; h += 2 {
		var c00, c01, c10, c11, c20, c21, c30, c31 float32
		q := b[h : 4*k-2+h]
		r := a[:4*k]
		for len(r) >= 4 && len(q) >= 2 {
			b0, b1 := q[0], q[1]
			x := r[0]
			c00 += float32(x * b0)
			c01 += float32(x * b1)
			x = r[1]
			c10 += float32(x * b0)
			c11 += float32(x * b1)
			x = r[2]
			c20 += float32(x * b0)
			c21 += float32(x * b1)
			x = r[3]
			c30 += float32(x * b0)
			c31 += float32(x * b1)
			if len(q) < 6 {
				break
			}
			q, r = q[4:], r[4:]
		}
		acc[h], acc[h+1] = c00, c01
		acc[4+h], acc[5+h] = c10, c11
		acc[8+h], acc[9+h] = c20, c21
		acc[12+h], acc[13+h] = c30, c31
	}
}
