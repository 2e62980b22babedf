package dev.sallyport.client;

import java.time.Duration;

/** Is called with what happens. A hook never sees a token string. It returns soon, and what it throws is ignored. */
public interface Hooks {
  /** Does nothing. */
  Hooks NONE = new Hooks() {};

  /**
   * A check is answered.
   *
   * @param tier "offline", "cache" or "server"
   */
  default void checked(Verdict verdict, String tier, Duration took) {}

  /** The feed gave an answer; entries may be used for this long. */
  default void lease(Duration left) {}

  /** The state of the feed is now "following", "lost" or "left". */
  default void feed(String state) {}

  /** A stream was ended because of its token. */
  default void streamEnded(Verdict reason) {}

  /** The same hooks, so that what they throw harms no check. */
  static Hooks harmless(Hooks hooks) {
    if (hooks == NONE) {
      return NONE;
    }
    return new Hooks() {
      @Override
      public void checked(Verdict verdict, String tier, Duration took) {
        call(() -> hooks.checked(verdict, tier, took));
      }

      @Override
      public void lease(Duration left) {
        call(() -> hooks.lease(left));
      }

      @Override
      public void feed(String state) {
        call(() -> hooks.feed(state));
      }

      @Override
      public void streamEnded(Verdict reason) {
        call(() -> hooks.streamEnded(reason));
      }

      private void call(Runnable hook) {
        try {
          hook.run();
        } catch (RuntimeException ignored) {
          // As the interface says.
        }
      }
    };
  }
}
