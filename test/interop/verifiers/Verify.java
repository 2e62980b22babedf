import java.math.BigInteger;
import java.security.AlgorithmParameters;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPoint;
import java.security.spec.ECPublicKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Scanner;

/** Verifies JWTs. Lines on stdin: `key KID ALG X [Y]`, then `jwt TEXT`. Prints `ok` or `bad` for each JWT. */
public class Verify {
  static byte[] decoded(String text) {
    return Base64.getUrlDecoder().decode(text);
  }

  static PublicKey key(String alg, String[] words) throws Exception {
    if (alg.equals("EdDSA")) {
      String spki = "302a300506032b6570032100" + HexFormat.of().formatHex(decoded(words[3]));
      return KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(HexFormat.of().parseHex(spki)));
    }
    AlgorithmParameters curve = AlgorithmParameters.getInstance("EC");
    curve.init(new ECGenParameterSpec("secp256r1"));
    ECPoint point = new ECPoint(new BigInteger(1, decoded(words[3])), new BigInteger(1, decoded(words[4])));
    ECParameterSpec spec = curve.getParameterSpec(ECParameterSpec.class);
    return KeyFactory.getInstance("EC").generatePublic(new ECPublicKeySpec(point, spec));
  }

  public static void main(String[] args) throws Exception {
    Map<String, PublicKey> keys = new HashMap<>();
    Map<String, String> algs = new HashMap<>();
    Scanner lines = new Scanner(System.in);
    while (lines.hasNextLine()) {
      String[] words = lines.nextLine().split(" ");
      if (words[0].equals("key")) {
        keys.put(words[1], key(words[2], words));
        algs.put(words[1], words[2]);
        continue;
      }
      String[] parts = words[1].split("\\.");
      String head = new String(decoded(parts[0]));
      String kid = head.replaceAll(".*\"kid\":\"([^\"]*)\".*", "$1");
      boolean good = head.contains("\"alg\":\"" + algs.get(kid) + "\"");
      if (good) {
        boolean ed = algs.get(kid).equals("EdDSA");
        Signature verifier = Signature.getInstance(ed ? "Ed25519" : "SHA256withECDSAinP1363Format");
        verifier.initVerify(keys.get(kid));
        verifier.update((parts[0] + "." + parts[1]).getBytes("US-ASCII"));
        good = verifier.verify(decoded(parts[2]));
      }
      System.out.println(good ? "ok" : "bad");
    }
  }
}
