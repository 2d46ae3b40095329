import { batchCases } from "./cases/batch-cases.ts";
import { configurationCases } from "./cases/configuration-cases.ts";
import { crossingCases } from "./cases/crossing-cases.ts";
import { deleteCases } from "./cases/delete-cases.ts";
import { downloadCases } from "./cases/download-cases.ts";
import { faultCases } from "./cases/fault-cases.ts";
import { listCases } from "./cases/list-cases.ts";
import { moveCases } from "./cases/move-cases.ts";
import { nameCases } from "./cases/name-cases.ts";
import { uploadCases } from "./cases/upload-cases.ts";
import type { ConformanceCase } from "./conformance-case.ts";

/** Every case of the kit, group by group. */
export const conformanceCases: readonly ConformanceCase[] = [
  ...configurationCases,
  ...uploadCases,
  ...downloadCases,
  ...moveCases,
  ...deleteCases,
  ...listCases,
  ...nameCases,
  ...faultCases,
  ...batchCases,
  ...crossingCases,
];
