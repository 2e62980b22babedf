package dev.sallyport.client;

/** No byte of a request left this process, so it may be sent again. */
public final class NotSentException extends RuntimeException {
  private static final long serialVersionUID = 1;

  public NotSentException() {
    super("the request was not sent", null, false, false);
  }
}
