package sallyport

import (
	"hash/crc32"
	"regexp"
	"strings"
)

const (
	longestToken = 4096
	digits       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	crcDigits    = 6
)

// CheckedPrefixes are the prefixes whose strings have a checksum, unless a Checker is told others.
var CheckedPrefixes = []string{"sp_"}

// A prefix, then kid, tag, secret and CRC-32.
var tokenShape = regexp.MustCompile(`\A[a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}\z`)

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

func hasShape(token string) bool {
	if !tokenShape.MatchString(token) {
		return false
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
