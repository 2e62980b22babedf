/**
 * The facts about the answering server that every statement returns. Positions are comparable only inside one epoch
 * (`docs/protocol.md` §2).
 */
export interface Evidence {
  readonly inRecovery: boolean;
  readonly epoch: string;
  /** The position of the snapshot. The snapshot shows every change of authority up to it. */
  readonly position: number;
  /** The database's clock at the statement, milliseconds since 1970. */
  readonly dbTime: number;
}
