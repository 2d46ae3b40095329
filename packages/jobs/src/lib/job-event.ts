import type { Digest, TransferMethod, Verification } from "@stowage/core/broker";
import type { JobResult } from "./job-result.ts";
import type { Refusal } from "./scan-outputs.ts";

export type StepName = "pre" | "main" | "post";

/** What `onEvent` is told while a job runs, in order. Everything but `output` is plain JSON. */
export type JobEvent =
  | { readonly type: "run-started"; readonly job: string; readonly run: string; readonly resumed: boolean; readonly directory: string }
  | { readonly type: "step-started"; readonly step: StepName }
  | TransferEvent
  /** What the command wrote. The bytes may end in the middle of a character. */
  | { readonly type: "output"; readonly stream: "stdout" | "stderr"; readonly chunk: Uint8Array }
  | { readonly type: "step-ended"; readonly step: StepName; readonly status: StepStatus; readonly durationMs: number }
  | { readonly type: "run-ended"; readonly result: JobResult };

/** `reused`: an earlier, interrupted run had done it. */
export type StepStatus = "succeeded" | "failed" | "cancelled" | "reused" | "skipped";

/** What happens while files are staged in or out. */
export type TransferEvent =
  | {
      readonly type: "progress";
      readonly step: "pre" | "post";
      /** Files that have ended, and all of them. */
      readonly done: number;
      readonly total: number;
      readonly bytes: number;
      readonly totalBytes: number;
    }
  | {
      readonly type: "file";
      readonly step: "pre" | "post";
      /** Of the input or output. */
      readonly name: string;
      readonly workspace: string;
      /** Path in the workspace. */
      readonly path: string;
      /** Bytes. */
      readonly size: number;
      /** Absent: it was there already, and the same. */
      readonly method?: TransferMethod | undefined;
      readonly digest?: Digest | undefined;
      readonly verified: Verification;
    }
  | { readonly type: "refused"; readonly step: "post"; readonly refusal: Refusal }
  | { readonly type: "log"; readonly step: StepName; readonly level: "debug" | "info" | "warn"; readonly message: string };
