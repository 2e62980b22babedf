// Verifies JWTs. Lines on stdin: `key KID ALG X [Y]`, then `jwt TEXT`. Prints `ok` or `bad` for each JWT.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
)

func decoded(text string) []byte {
	bytes, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		panic(err)
	}
	return bytes
}

func number(bytes []byte) *big.Int { return new(big.Int).SetBytes(bytes) }

func main() {
	keys := map[string][]string{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if words[0] == "key" {
			keys[words[1]] = words[2:]
			continue
		}
		parts := strings.Split(words[1], ".")
		var head struct{ Alg, Kid string }
		if err := json.Unmarshal(decoded(parts[0]), &head); err != nil {
			panic(err)
		}
		key := keys[head.Kid]
		signed := []byte(parts[0] + "." + parts[1])
		raw := decoded(parts[2])
		good := head.Alg == key[0]
		if good && head.Alg == "EdDSA" {
			good = ed25519.Verify(decoded(key[1]), signed, raw)
		} else if good {
			point := ecdsa.PublicKey{Curve: elliptic.P256(), X: number(decoded(key[1])), Y: number(decoded(key[2]))}
			sum := sha256.Sum256(signed)
			good = ecdsa.Verify(&point, sum[:], number(raw[:32]), number(raw[32:]))
		}
		fmt.Println(map[bool]string{true: "ok", false: "bad"}[good])
	}
}
