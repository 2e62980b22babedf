package dev.sallyport.client;

/**
 * The origin of a request.
 *
 * @param clientAddress an IP address without a port, or the empty string
 * @param path of the method
 */
public record Origin(String clientAddress, String path) {
  /** Nothing is known. */
  public static final Origin UNKNOWN = new Origin("", "");
}
