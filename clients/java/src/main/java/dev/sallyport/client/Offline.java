package dev.sallyport.client;

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.zip.CRC32;

/** Knows strings that cannot be a live token, so that no server need be asked. */
final class Offline {
  /** The prefixes whose strings have a checksum, unless a Checker is told others. */
  static final List<String> CHECKED_PREFIXES = List.of("sp_");

  private static final int LONGEST = 4096;
  private static final byte[] DIGITS =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".getBytes(StandardCharsets.US_ASCII);
  private static final int CRC_DIGITS = 6;
  /** Kid, tag, secret and CRC-32. */
  private static final int BODY = 58;

  private Offline() {}

  static boolean refused(String token, List<String> checkedPrefixes) {
    if (token.isEmpty() || token.length() > LONGEST) {
      return true;
    }
    for (String prefix : checkedPrefixes) {
      if (token.startsWith(prefix)) {
        return !hasShape(token);
      }
    }
    return false;
  }

  /** True for {@code [a-z][a-z0-9_]{1,15}_[0-9A-Za-z]{58}} with the right checksum. By hand, because each check pays it. */
  private static boolean hasShape(String token) {
    int bar = token.length() - BODY - 1;
    if (bar < 2 || bar > 16 || token.charAt(bar) != '_' || token.charAt(0) < 'a' || token.charAt(0) > 'z') {
      return false;
    }
    byte[] bytes = new byte[token.length()];
    for (int i = 0; i < bytes.length; i++) {
      char c = token.charAt(i);
      boolean plain = c >= 'a' && c <= 'z' || c >= '0' && c <= '9';
      if (!plain && !(i < bar && c == '_') && !(i > bar && c >= 'A' && c <= 'Z') && i != bar) {
        return false;
      }
      bytes[i] = (byte) c;
    }
    int end = bytes.length - CRC_DIGITS;
    CRC32 crc = new CRC32();
    crc.update(bytes, 0, end);
    long rest = crc.getValue();
    for (int i = bytes.length - 1; i >= end; i--) {
      if (bytes[i] != DIGITS[(int) (rest % 62)]) {
        return false;
      }
      rest /= 62;
    }
    return true;
  }
}
