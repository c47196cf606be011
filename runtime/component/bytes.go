package component

import (
	"fmt"
	"math"
	"math/big"
	"strings"
)

// units of a size, as Kubernetes writes quantities.
var units = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// ParseBytes reads a size such as 100Gi, 1.5T or 2e9, rounded up to whole bytes;
// a B at the end is allowed.
func ParseBytes(s string) (int64, error) {
	number := strings.TrimRight(strings.TrimSuffix(s, "B"), "kKMGTPEi")
	unit, known := units[strings.TrimSuffix(s, "B")[len(number):]]
	v, ok := new(big.Rat).SetString(number)
	if !ok || !known || v.Sign() < 0 || strings.ContainsAny(number, "/_xX") {
		return 0, fmt.Errorf("%q is no size such as 100Gi", s)
	}
	v.Mul(v, new(big.Rat).SetInt64(unit))
	n := new(big.Int).Div(v.Num(), v.Denom())
	if !v.IsInt() {
		n.Add(n, big.NewInt(1))
	}
	if !n.IsInt64() {
		return 0, fmt.Errorf("%q is more than %d bytes", s, int64(math.MaxInt64))
	}
	return n.Int64(), nil
}
