package sallyport

import (
	"hash/crc32"
	"strings"
)

const (
	longestToken = 4096
	digits       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	crcDigits    = 6
	// Kid, tag, secret and CRC-32.
	bodyLength = 58
)

// CheckedPrefixes are the prefixes whose strings have a checksum, unless a Checker is told others.
var CheckedPrefixes = []string{"sp_"}

// RefusedOffline is true if a string cannot be a live token, so that no server need be asked.
func RefusedOffline(token string, checkedPrefixes []string) bool {
	if token == "" || len(token) > longestToken {
		return true
	}
	for _, prefix := range checkedPrefixes {
		if strings.HasPrefix(token, prefix) {
			return !hasShape(token)
		}
	}
	return false
}

// hasShape is true for `[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}` with the right checksum. By hand, because the package regexp
// takes ten times as long as the rest of a cached check.
func hasShape(token string) bool {
	bar := len(token) - bodyLength - 1
	if bar < 2 || bar > 16 || token[bar] != '_' || token[0] < 'a' || token[0] > 'z' {
		return false
	}
	for i := range len(token) {
		c := token[i]
		lower, digit := c >= 'a' && c <= 'z', c >= '0' && c <= '9'
		if !lower && !digit && !(i < bar && c == '_') && !(i > bar && c >= 'A' && c <= 'Z') && i != bar {
			return false
		}
	}
	end := len(token) - crcDigits
	var crc [crcDigits]byte
	rest := crc32.ChecksumIEEE([]byte(token[:end]))
	for i := crcDigits - 1; i >= 0; i-- {
		crc[i] = digits[rest%62]
		rest /= 62
	}
	return token[end:] == string(crc[:])
}
