import type { Workload } from "../lib/workload.ts";
import { bigFileWorkloads } from "./big-file.ts";
import { footprintWorkloads } from "./footprint.ts";
import { listingWorkloads } from "./listing.ts";
import { smallFileWorkloads } from "./small-files.ts";

/** In the order in which they run and are reported. */
export const workloads: readonly Workload[] = [...bigFileWorkloads, ...smallFileWorkloads, ...listingWorkloads, ...footprintWorkloads];
