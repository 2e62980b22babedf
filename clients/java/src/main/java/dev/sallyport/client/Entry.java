package dev.sallyport.client;

/** A live token's facts as of a version. They are no verdict: that is made anew at each use. */
record Entry(Version version, long[] tags, Facts facts, Identity identity) {}
