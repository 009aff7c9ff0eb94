package gguf

import "sync"

// The vectors that the indices in blocks of IQ1 to IQ3 stand for (iq1s_grid, iq2xxs_grid,
// iq2xs_grid, iq2s_grid, iq3xxs_grid and iq3s_grid in llama.cpp's ggml-common.h, as
// gguf-py's quants.py has them). A vector is a number whose digits, the last one first,
// are places in a short list of levels, and a number is two characters in base 81.

// grid is what the indices of a type stand for.
type grid struct {
	levels []float32 // what digits stand for
	size   int       // digits of a vector
	packed string
}

// unpack gives all vectors, one after the other.
func (g grid) unpack() []float32 {
	digit := func(c byte) int {
		if c > '`' { // which no string has
			c--
		}
		return int(c) - '!'
	}
	var all []float32
	var high byte
	for i := range len(g.packed) {
		c := g.packed[i]
		switch {
		case c == '\n':
			continue
		case high == 0:
			high = c
			continue
		}
		v := 81*digit(high) + digit(c)
		for range g.size {
			all = append(all, g.levels[v%len(g.levels)])
			v /= len(g.levels)
		}
		high = 0
	}
	return all
}

var levelsIQ2 = []float32{8, 25, 43}

var (
	gridIQ1 = sync.OnceValue(grid{[]float32{-1, 0, 1}, 8, `
!!!#!%!'!)!+!.!3!5!9!;!@!F!H!J!R!W!Y!]!_!e!j!l!p!r"$"%"+"-"/"1"2"7"="A"C"G"I"M"O"Q"S"T"["b"d"f"n#!###'#)#.#3#5
#9#;#@#F#L#Q#U#W#Y#]#_#b#e#h#j#l#p#r$+$-$/$7$=$C$I$M$Q$R$b$h$n%"%$%%%&%.%0%2%:%<%@%D%E%F%H%I%J%L%N%P%R%T%V%X%b
%e%g%i%k%m%n%o%q&-&1&=&?&E&G&I&K&N&O&S&U&[&b&d&h'!'#''')'.'3'5'9';'@'F'J'R'W'Y']'_'e'j'l'p'r(%(+(-(1(6(7(=(E(F
(I(O(Q(U(b(d(f(h(n)!)#)'))).)3)5)9);)@)F)L)O)R)W)Y)[)])_)e)j)l)p)r***+*-*1*6*7*=*?*E*I*K*O*Q*R*U*b*d*f*k*n+"+$
+&+(+*+,+.+0+4+6+:+@+D+E+F+G+H+I+J+L+N+R+Z+c+e+k+m,+,-,/,7,<,A,C,G,I,K,M,Q,S,[,b,d,f,n-"-&-(---.-0-1-4-8-=-@-A
-B-D-F-H-I-J-L-P-R-T-Z-^-a-d-e-g-h-i-k-m-n-q.#.%.).+.-.../.1.3.5.7.9.;.=.?.@.A.F.G.H.I.J.L.M.O.Q.R.S.U.W.Y.Z.[
.]._.a.b.d.e.f.h.i.j.l.n/"/$/%/&/.///0/2/4/8/</>/?/@/B/D/F/I/J/K/L/O/Q/R/T/U/V/\/_/c/e/m/q0+0/070=0?0A0C0E0I0K
0M0N0O0Q0S0U0[0b0d0n1*1,1.1214171>1?1@1B1F1H1I1J1L1M1N1R1V1^1b1c1e1g1k1o1q2(2/26282?2A2C2E2G2I2K2O2S2U2[2b2f2i
3!3#3'3)3.333537393;3@3F3L3O3R3W3Y3]3_3e3j3l3n3p3r4%4+4-41474>4?4C4I4K4M4O4Q4R4S4[4a4f4h4n5"5'5)5+5.5355595;5@
5F5J5L5R5X5]5_5b5e5j5l5p5r6%6-6/61676?6@6A6C6G6I6K6M6S6[6b6d6h6k6n7(7.747:7<7@7B7F7H7I7L7P7R7T7^7a7d7e7g7i7k7m
7o7q8%8*8,81878=8C8I8N8O8U8Z8\8a8i9!9#9'9)9.9395999;9@9F9H9R9W9Y9]9_9j9l9p9r:(:+:-:1:7:A:C:G:I:O:Q:S:U:[:a:f:h
:m:n;!;#;';);3;5;9;;;@;F;J;L;R;W;Y;];_;e;j;l;p;r<%<+</<7<C<G<I<K<M<O<Q<S<d<h<k<o=!="=$=&=(=,=.=/=0=2=4=8=:=@=B
=D=F=H=I=J=L=M=R=T=V=X=Z=\=a=c=e=j=k=l>%>+>->/>7>=>G>I>M>Q>U>^>d>n?"?.?1?:?@?B?D?F?H?I?J?O?P?R?T?V?X?\?^?a?c?e
?j?k?q@"@#@%@)@+@-@.@/@1@3@7@;@=@?@@@A@C@E@F@H@I@J@K@L@O@Q@R@S@U@Y@Z@[@]@b@d@e@f@h@i@n@p@rA"A%A(A-A.A0A2A4A6A:
A<A>A@ABAEAFAGAIAJALAPARATAXA[A_AdAeAkAmAoB%B+B.B2B7B>BCBEBIBKBOBQBSBUB[BbBdBfBhBnC"C%C&C)C*C-C.C0C4C6C8C<C@CD
CFCGCHCICJCLCNCPCRCSCVC\C^CcCeCfCgCkCmCoCqD/D?DADCDIDKDMDQDUDdDnE"E$E%E&E(E,E.E2E4E6E:E<E@EBEFEHEIEJELERETE\E^
EeEgEjEkEoEqF%F'F(F)F+F-F.F/F0F1F3F7F8F9F;F=F?F@FAFCFEFFFGFHFIFJFKFLFMFOFQFRFSFUFYF[FbFdFeFfFhFjFnFrG"G&G,G.G2
G4G6G>G@GDGFGHGIGJGLGPGRG[GaGcGeGhGiGmH$H%H+H-H.H/H0H1H4H7H9H;H=H?H@HAHCHDHEHFHHHIHJHKHLHMHOHPHQHRHSHUHWH]H_Hb
HdHeHfHhHkHmHnHrI"I#I$I%I&I(I*I+I,I-I.I/I1I2I4I6I7I8I:I<I=I>I?I@IAIBICIEIFIGIHIIIJIKILIMINIOIQIRISITIUIVIXIZI[
I^I_IaIbIdIeIfIgIhIkImInIoIqJ!J"J#J$J&J'J(J+J-J.J0J1J3J4J5J6J7J8J9J:J=J@JAJBJCJDJEJFJGJHJIJJJKJLJMJOJQJRJUJYJ[
J\J]J^J_JbJeJiJlJnJoJpJqK$K%K&K(K*K.K0K4K;K@KBKDKFKHKIKJKKKLKNKPKQKRKYK^KaKcKeKgKkKqL"L#L%L)L+L-L.L/L1L7L=L?L@
LALCLELFLGLHLILJLKLLLMLOLQLRLSLULXL[L^LbLdLeLfLgLhLnM$M'M.M2M3M7M8M:M@MBMCMFMIMJMKMLMPMRMTMVMXM_McMeMfMgMiMkN%
N-N/N1N7N?NENINJNKNMNONQNSNUNXNfNnO"O$O&O(O,O.O4O5O8O:O@OCOFOIOJOLOROSOVOZO_OcOeOkOoOqP+P/P1P<P=PAPIPJPKPNP[Pb
PfPnQ+Q,Q.Q/Q2Q4Q8Q:Q<Q>Q@QBQDQFQHQIQJQLQMQNQPQRQZQ[Q^QaQcQdQeQfQgQiQkQmQqR%R'R)R+R.R/R1R?R@RARCRERFRHRIRJRLRO
RQRRRSRUR\R^R_RbReRfRhRiRlRnRoRpS#S(S.S3S8S9S:S<S@SBSDSFSHSISJSKSMSNSRSTSWSYS[S_SdSfSgShSjSmSoSrT/T1T7T=TGTITM
TOTUT[TbTgToU"U$U*U.U4U6U8U:U<U=U@UAUBUFUHUIUJULUNURUVUYUZU_UeUkUmUnUqV+V/V0V=V?VCVEVIVKVMVQVRVUV\VdVgViVoW!W#
W'W)W3W5W9W;W@WEWFWHWJWLWRWWWYW]W_WeWjWlWpWrX%X+X-X/X1X7X=X?XCXEXGXIXJXKXLXQXSXUX[X^XdXfXhXnY!Y#Y'Y)Y.Y3Y5Y9Y;
YFYHYLYRYWYYY]Y_YeYjYlYpYrZ-Z1Z=Z?ZFZIZMZOZQZUZdZh["[([,[.[2[8[:[<[=[@[B[F[H[I[J[L[M[R[S[T[V[X[Z[\[^[a[c[e[g[o
\+\/\1\7\=\?\C\D\E\I\L\M\O\S\V\[\b\i\m]!]#]'])].]3]5]9];]=]@]F]H]L]R]U]W]Y]]]_]e]j]l]p]r^%^&^+^-^/^7^=^?^A^C^E
^G^I^M^O^Q^[^f^h^n_!_#_'_)_._3_5_9_;_@_F_H_J_W_Y_]___e_j_l_p_ra%a+a/a0a1a7a=aAaCaIaKaMaUaVa[abadafahanb"b$b&b(
b*b.b0b2b4b6b8b:b<b@bEbFbHbIbJbLbPbRbZb\bcbebgbkbmbobqc%c+c-c1c7c?cAcCcEcGcIcKcScUc[cdcfcqd"d$d&d*d.d0d8d<dDdF
dHdIdJdKdLdNdOdPdRdZd\dcdddedgdkdqe!e%e'e)e*e+e-e.e/e1e4e7e:e;e=e?e@eAeCeEeFeGeHeIeJeKeLeMeOeQeReSeUeXe[e]ebec
edeeefeheiejeleneperf"f$f*f.f1f3f8f:f@fBfCfFfGfIfJfLfRfTfYfZf^f_fcfdfefmfofqg%g/g1g7g=gAgEgGgIgJgMgQgRg[gbgfgh
gnh$h&h(h*h,h.h0h2h3h4h6h8h<h>h@hBhDhFhHhIhJhLhPhRhShVhXhZhahchehihkhoi%i.i7i?iAiCiEiIiKiOi[ibidieifj!j#j'j)j.
j3j5j9j;j@jFjHjJjLjWjYj]j_jejjjljpjrk%k(k+k-k/k1k2kAkCkFkIkKkMkOkQk[kakckfkhl#l'l)l*l1l5l9l;l@lFlJlLlRlWlYl]l_
leljlllplrm1m7m=m?mEmHmImKmMmOmRmSmTmUm[n&n(n*n,n.n0n8n:n>n@nFnHnInJnLnRnVnXnZn[n\n^ncnengo%o+o/o2o4o7o?oAoDoG
oIoJoKoNoPo\oaoeofohokomoop!p#p'p)p3p5p9p;pFpHpJpLpWpYp]p_pepjplppprq%q-q1q4q7q=qEqIqMqOqSqUqaqfr!r#r'r)r3r5r9
r;rFrHrJrWrYr]r_rerjrlrprr
`}.unpack)
	gridIQ2XXS = sync.OnceValue(grid{levelsIQ2, 8, `
!!!#!%!'!)!+!-!3!5!9!;!=!?!E!K!O!Q!W!Y!_!l"""$"*"."<"Z"g#!###5#Y$"$$$*$4$6$<$>$B$N$X$Z$a$m%!%#%'%3%A%U%W%b&(&*
&<&Z&m'!'%'''-'9'='?'E'G']($(<)#)-*"*$***4*<*N*Z*a*e+!+'+3+E+M+W,6,@-!-'-3-7-C-W.0.P/!//0"0$0*0<0X1!1%1j2F3!3#
3)3?3O3W3Y4:4B5!5#6"6$6*6<6J7!7=7Q8a9'939d;?<"<$<*<0<4<6<<<B<J<N<X<Z<a=!=3=O=W=[>">*>B>J>T?!?'?3?W?h@,@6A!B"B$
B*B<B@C!CKCOCYD@DaE!E'E+E1E3EWE]F$F>FmGbHaHcI)J"JHK!K+K1KQL<M'N$N*N<NTO!OIP0PNQ!Q%R*R,RZT>W!W#W)W=WYX$X0X<Y+Z"
Z$Z*Z.Z<ZN[![A[d\(\<\N]#^$_+a$a*a6a<akb/bWc@d!d5d?eFgXh3j#jEj[k(l!m0pEq$
`}.unpack)
	gridIQ2XS = sync.OnceValue(grid{levelsIQ2, 8, `
!!!#!%!'!)!+!-!/!1!3!5!7!9!=!?!A!C!E!G!I!K!O!Q!W!Y![!]!b!d!h!j"""$"&"("*","."0"2"4"6"<">"@"B"F"H"N"T"X"Z"a#!##
#%#'#+#-#3#=#?#E#I#W#_$"$$$&$($*$,$.$0$4$6$<$>$@$B$F$H$J$N$X$Z$a%!%#%%%'%+%-%3%=%?%E%O%W&"&$&*&8&<&>&Z'!'#'%''
')'+'-'3'7'='?'E'K'W'j'r("($(*(<(X(^)!)3)9)f)j*"*$*&*(***,*.*0*4*6*<*>*@*B*F*H*N*V*X*Z*a+!+#+%+'+++-+3+=+?+E+W
+d+f,",$,&,*,<,N-!-#-%-'-+---3-=-?-C-E-Q-W.".$.*.</!/-/C0"0$0*0,0<0H0\1!1%1S2F2q3!3#3%3'3)3+3-333=3?3E3W3j4"4$
4*4<4B4R5!555W5p6"6$6*6:6<7!7=7G7h8"828o9!9'9)939I9]9l:T:a;';3;Y;];_<"<$<&<(<*<,<.<0<4<6<<<><@<B<D<F<H<N<R<X<Z
<a=!=#=%='=+=-=3===?=E=W=[=l>">$>*>,>:><?!?#?%?'?+?-?1?3?=???E?W?d@"@$@*@6@<@iA!A)A?AEB"B$B*B<B@BHBPC!C+C?CECU
D$E!E#E%E'E+E-E3E9E=E?EEEWF"F$F*F.F<F>G!G?GrH"H$H*H4H<HNHXHkI!I'IWI]J4JTJkK!K-K=KEKhL2L<L>M[N"N$N*N<NHNPN\NqO!
P6PDPcQ!Q/R*R<R@RmT"TVU7V&VHVPW!W#W%W'W+W-W3W;W=W?WEWWWYWpWrX"X$X&X*X<XFXLY!Y3YWYYYjYpZ"Z$Z*Z,Z.Z<ZNZ^[![?[n\0
\V]!]']7]M]W]Y]p^&_5_W_]_f_pa"a$a*a<aJaZb!b5bQcJc^d!d%d?dEdKe:eaecf=gFgohCi.iNj!j#j'j)j3j;jjkFkLkol!l#l'l;lWlj
m<meoRogp)p3p5p9pjppq$qZq\r9r;rbrr
`}.unpack)
	gridIQ2S = sync.OnceValue(grid{levelsIQ2, 8, `
!!!#!%!'!)!+!-!/!1!3!5!7!9!=!?!A!C!E!G!I!K!O!Q!S!U!W!Y![!]!b!d!j!n!r"""$"&"("*","."0"4"6"<">"@"B"F"H"J"L"N"R"T
"X"Z"a"c"e"k"m#!###%#'#+#-#3#;#=#?#A#C#E#I#W#[#_#d#l$"$$$&$($*$,$.$0$4$6$8$:$<$>$@$B$D$F$H$J$L$N$P$R$X$Z$\$^$a
$e$g$k$m%!%#%%%'%)%+%-%/%1%3%7%9%=%?%A%C%E%G%I%K%O%Q%W%Y%[%]%b%d%j&"&$&&&(&*&.&<&@&B&F&H&N&X&Z&a'!'#'%'''+'-'/
'1'3'7';'='?'A'C'E'G'I'K'O'Q'W'['d'r("($(*(,(.(0(4(<(@(B(F(H(N(X(a)!)+)-)5)9);)E)h*"*$*&*(***,*.*0*4*6*8*<*>*@
*B*F*H*J*L*N*P*R*T*X*Z*\*a*e*g*k*m+!+#+%+'+)+++-+/+1+3+5+7+9+=+?+A+C+E+G+I+K+O+Q+W+Y+[+]+b+d,",$,(,*,.,4,6,<,@
,F,H,X,Z,a-!-#-%-'-+---/-1-3-7-9-=-?-A-C-E-G-I-K-O-Q-W-Y-[-]-b-d-j.".$.&.(.*.,...0.4.6.<.>.@.B.F.H.N.X.Z.a/!/%
/'/+/-/3/=/?/E/W/r0"0$0&0(0*0.00040<0>0@0B0F0H0N0X0Z1!1#1%1'1+1-131=1?1E1U1l2$2*2<2J3!3#3%3'3+3-3/3133373;3=3?
3E3G3I3Q3W3_3d3r4"4$4*4,4.444<4>4@4F4H4N4X4Z4a5!5)55595;5?5E5]5_5p6"6$6&6(6*6.6064666<6>6@6B6F6H6N6X6Z6a7!7%7'
7+7-737=7?7E7S7W8"8$8*8<8L9!9%9+9-9=9?9E9_9r:":$:*:e;);5;Q;];_<"<$<&<(<*<,<.<0<2<4<6<8<<<><@<B<D<F<H<J<L<N<P<R
<X<Z<a<e<g<k<m=!=#=%='=+=-=/=1=3=5=7===?=A=C=E=G=I=K=O=Q=W=Y=[=]=b=d=j>">$>*>,>.>0>6><>@>B>F>H>N>X>Z?!?#?%?'?)
?+?-?/?1?3?5?7?9?=???A?C?E?G?I?K?O?Q?W?Y?[?]?b?d?j@"@$@&@(@*@,@.@0@4@6@<@>@@@B@F@H@N@V@X@Z@aA!A#A%A'A+A-A3A=A?
AEAWAnB"B$B(B*B,B.B0B4B6B<B>B@BBBFBHBNBZBaC!C#C%C'C+C-C3C=C?CECWCfD"D$D*D<E!E#E%E'E+E-E/E1E3E5E7E9E=E?EAECEEEG
EIEKEOEQEWEYE[E]EbEdF"F$F&F(F*F,F.F0F4F6F<F>F@FBFFFHFNFXFZFaG!G%G'G+G-G3G=G?GEGUGWH"H$H&H(H*H,H.H0H4H6H<H>H@HB
HFHHHNHXHZHaI!I#I%I'I+I-I3I=I?IEIWJ"J$J*J8J<K!K#K%K'K+K-K3K=K?KEKMKWL"L$L*L<M!M1M[MpN"N$N&N*N,N.N0N4N6N<N@NBNF
NHNNNZNaO!O#O%O'O+O-O3O=O?OEOWOhP$P*P<PJPkQ!Q%Q'Q+Q-Q3Q=Q?QEQWR"R$R*R<RDRTRcS!SdT"T$T*TRTgU!U;V>VkW!W#W%W'W+W-
W1W3W7W=W?WEWGWIWKWOWWW[WbWdX"X$X(X*X,X.X0X4X6X<X>X@XBXFXHXXXZXaXqY!Y%Y)Y+Y-Y=Y?YEZ"Z$Z&Z(Z*Z,Z.Z0Z4Z<Z>Z@ZBZF
ZHZNZXZZZa[![#[%['[+[-[3[=[?[E[W[_\"\$\*\:\<]!]%]+]-]=]?]E]l^"^$^<^R_5_K_M_Y_la"a$a(a*a,a.a0a6a<a>a@aBaFaHaNaX
aZaab!b%b+b-b=b?bEbMc"c$c*c<cod!d#d%d'd+d-d3d=d?dEdWdfe"e$e*e<egekf!fAfQg"g$g*g8g<gqh!hChGiaj!j%j)j-j5j;j=j?jE
jljrk<kRl#l)l5l9l;lYl]l_lpm"m$m*m<m^mmn!n1oFp)p9plqHq\r'r)r3r5r9r]rr
`}.unpack)
	gridIQ3XXS = sync.OnceValue(grid{[]float32{4, 12, 20, 28, 36, 44, 52, 62}, 4, `
!!!#!%!*!,!0!1!3!:!C!\!^!c!e!j!l"!"%"("*"1"<"H"P"R"T"Y"a"c"j"l"p#(#.#<#@#F#G#I#T$&$9$M$R$]$j$l$p%$%7%G&)&@&T&X
&Z&p','<'>'C'E'L'N'S'U'W'c'd(*(,(3(:(<(l(n)!)#)*)1)S)Y)[)j*!*.*>*I*M*q+G+K+]+q,+-'-5-U-W-^-a-f-h-l-o.&.E.G.I.L
.N.U.\/&/*/+/3/5/</B/C/E/R/S/a0#0*0.0Z0^1.1<1T1i2!2<30323=3T3q4&4(4/414F4S4X4^4a4o5&51535N5P5U5c6&666E6W7C7R7f
7l7r8,8G8g9'9<9e:(:<:G:U:W:d:h;d<&<5<6<F<L<]=*=I=o>(>I>W>m?i?l?n@*@\A"A9AAAGAWAoB<BJBkC!CJChD!D%DHDPDhEfF@FNG/
G?GAGOGmH;HYI-IQIWJLJnKAL!LILWM8M:M<M=MOM_N:NDNoO8O=OSOaOoP2PSPdQ1Q3QER8
`}.unpack)
	gridIQ3S = sync.OnceValue(grid{[]float32{1, 3, 5, 7, 9, 11, 13, 15}, 4, `
!!!"!#!&!(!)!*!+!-!/!1!2!6!<!A!C!F!H!J!L!Q!S!Z!]!a!b!c!d!f!j!k!o!r"#"'")"-"4"A"E"J"P"Q"U"W"X"["^"b"f"i"m#!#$#&
#(#*#7#:#B#H#L#O#Q#X#Z#]#d#h#j$%$'$+$.$9$=$?$B$H$N$Q$W$g$q%!%-%/%3%8%>%B%D%S%X%d%g%i&%&6&E&L&N&P&\&^&c&h'#''';
'<'='?'C'D'F'H'J'K'M'T'W'Y'h'j'm($(*(+(-(0(2(6(;(B(E(K(R(T(c(i(k)#)&)()))-)3)9)<)F)I)S)Z)])a)b)e)k)q)r*$*)*:*@
*K*M*R*T*b*d*k*o*q+#+8+?+B+H+O+Q+a,6,:,=,J,L,h,j,o,q-&-2-6-G-M-U-V-X-Z-\-]-_-b-d-g-i-m-n-p.%.'.).,...;.<.?.A.D
.F.L.O.S.V.Y.].a.g.n/4/7/:/D/F/K/R/T/^/c/m/p0"0$0'0+04060;0=0D0J0X0d0j1!1$1+1.121K1N1U1Z1d1q1r2+282@2B2G2Q2n2r
34383E3G3R3W3r4'4)4+4-4047494;4@4B4E4G4Q4W4_4b4d4k4p4r5-5=5G5K5M5W5]5h5j6$6=6D6H6M6O6S6T6]6_6d6j7&7.74797=7D7U
7[7_7m8"8$8/848>8H8U8i9*9J9L9Y9[9g:8:<:B:H:L:O:R:Y:a:q;);.;0;2;9;?;D;J;P;T;i;k;p<#<'<1<6<E<H<N<Z<_<b<g<i<p="=E
=G=Y=e=f>->9>;>E>g?.???S?l?q@*@5@;@T@Z@^@eA!A%A(A+A7A=ABADAFAKARA[B*B0B9BCBHBNB[C!C&C'C6CCCHCTCZCaCdCpD(D4DXDe
E&E(E_F.F0F>G$G&G(G4G6GKG[GlH!H>HTHgHmI&I+I1I9IEIJIYJ=JKJZJiJlK3KGK\L&LOLQM5M9M<MEMGMSMUMbMhN&N-N8NGNINfNiNmO!
O$O+O<OUOnOqP-PCPGPMPRPkQCQSR"R9Ra
`}.unpack)
)
