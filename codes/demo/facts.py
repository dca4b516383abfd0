"""What can be seen of a person: every clinical fact of the synthetic hospitals, its words, and what makes it frequent.

Tables to read and to change, no code to speak of: demo/terminology.py makes concepts of the words, demo/course.py makes
rates of the drivers. A line is fields parted by `|`; `~` in a variant stands for the fact's own words.

Frequency: `in` is a day's rate on a ward, `out` a rate per outpatient visit, for someone to whom none of the drivers
applies; a driver `shock+0.9` multiplies the rate by exp(0.9) for each unit of the latent `shock`. For an analyte the
drivers shift its value instead, in standard deviations. Numbers come from clinical plausibility, not from any model.
"""

# name | prevalence at 60 | per decade of age (log odds) | weight in the burden of disease
CHRONIC = """
hypertension        | 0.45 | 0.50 | 0.1
heart_failure       | 0.10 | 0.60 | 1.0
coronary_disease    | 0.16 | 0.50 | 0.5
atrial_fibrillation | 0.10 | 0.70 | 0.5
copd                | 0.12 | 0.35 | 0.8
diabetes            | 0.22 | 0.30 | 0.4
kidney_disease      | 0.12 | 0.45 | 0.9
cirrhosis           | 0.04 | 0.10 | 1.2
cancer              | 0.10 | 0.40 | 1.3
dementia            | 0.04 | 0.90 | 1.0
old_stroke          | 0.05 | 0.60 | 0.5
depression          | 0.20 | 0.00 | 0.2
arthritis           | 0.25 | 0.40 | 0.0
hypothyroidism      | 0.12 | 0.20 | 0.0
obesity             | 0.28 | 0.00 | 0.1
alcohol_use         | 0.08 | -0.10 | 0.5
"""

# Organ axes of an acute illness; each is a noisy part of the episode's severity.
AXES = ("shock", "breathing", "kidney", "liver", "brain", "clotting", "inflammation", "metabolism")

# kind of episode | weight | chronic conditions that bring it (log weight) | mortality (log odds) | log days | readmission
#   | axes that it strikes in every case
KINDS = """
pneumonia          | 1.3 | copd+0.9 dementia+0.8 cancer+0.4            | 0.3  | 1.55 | 0.0  | breathing+0.9 inflammation+0.9
urosepsis          | 1.0 | diabetes+0.6 dementia+0.7                   | 0.4  | 1.60 | 0.1  | inflammation+1.0 shock+0.5 kidney+0.3
decompensation     | 0.4 | heart_failure+2.4 coronary_disease+0.4      | 0.0  | 1.55 | 0.4  | breathing+0.7 kidney+0.4
infarction         | 0.7 | coronary_disease+1.2 diabetes+0.4           | 0.1  | 1.35 | -0.1 | shock+0.4 clotting+0.2
stroke             | 0.6 | atrial_fibrillation+1.0 hypertension+0.5    | 0.6  | 1.75 | -0.1 | brain+1.1
bleeding           | 0.7 | cirrhosis+1.3 alcohol_use+0.8               | 0.1  | 1.40 | 0.1  | clotting+0.7 shock+0.5
copd_exacerbation  | 0.2 | copd+2.9                                    | -0.3 | 1.45 | 0.4  | breathing+0.9
fracture           | 0.9 | arthritis+0.6 dementia+0.8                  | -0.6 | 1.60 | -0.2 | inflammation+0.2
kidney_injury      | 0.5 | kidney_disease+1.6 heart_failure+0.5        | 0.2  | 1.55 | 0.2  | kidney+1.2 metabolism+0.5
elective_surgery   | 1.8 | arthritis+0.5 cancer+0.7 obesity+0.4        | -1.5 | 1.30 | -0.5 | inflammation+0.3
pancreatitis       | 0.3 | alcohol_use+1.6 obesity+0.3                 | 0.0  | 1.65 | 0.0  | inflammation+0.7 metabolism+0.4
liver_failure      | 0.1 | cirrhosis+4.0                               | 0.8  | 1.80 | 0.5  | liver+1.4 clotting+0.7 brain+0.4
ketoacidosis       | 0.2 | diabetes+2.0                                | -0.9 | 1.25 | 0.2  | metabolism+1.4
"""

# fact | kind of disorder | body system | dx: coded once a stay, sign: charted as it is seen | in out | drivers | variants
CONDITIONS = """
hypertensive disorder | vascular disease | circulatory system | dx | 0.02 0.06 | hypertension+2.4 | Essential ~;Systemic arterial ~;~ with renal involvement;Resistant ~
heart failure | heart disease | circulatory system | dx | .001 .001 | heart_failure+5 decompensation+3 | Congestive ~;Chronic systolic ~;Diastolic ~;Left ~;Biventricular ~
coronary arteriosclerosis | heart disease | circulatory system | dx | .001 .001 | coronary_disease+5 infarction+2 | ~ in native artery;Multivessel ~;~ of left main artery;Stable ~
atrial fibrillation | cardiac arrhythmia | circulatory system | dx | .001 .001 | atrial_fibrillation+5 | Paroxysmal ~;Persistent ~;Permanent ~;~ with rapid response
chronic obstructive lung disease | lung disease | respiratory system | dx | .001 .001 | copd+5 copd_exacerbation+2 | ~ with emphysema;~ with bronchitis;Moderate ~;Late onset ~
type 2 diabetes mellitus | metabolic disease | endocrine system | dx | .001 .001 | diabetes+5.3 ketoacidosis+2 | ~ without complication;~ with neuropathy;~ with retinopathy;Insulin treated ~
chronic kidney disease | kidney disease | urinary system | dx | .001 .001 | kidney_disease+5 kidney_injury+1 | ~ stage 3;~ stage 3b;Hypertensive ~;Diabetic ~;~ due to glomerular disease
cirrhosis of liver | liver disease | digestive system | dx | .0005 .0005 | cirrhosis+6 liver_failure+2 | Alcoholic ~;Cryptogenic ~;~ with portal hypertension;Decompensated ~
malignant neoplasm | neoplastic disease | body as a whole | dx | .0005 .0005 | cancer+5.5 | Primary ~ of lung;Primary ~ of colon;Primary ~ of breast;Primary ~ of prostate;Metastatic ~
dementia | cognitive disorder | nervous system | dx | .0005 .0005 | dementia+6 | Vascular ~;Senile ~;~ of Alzheimer type;~ with behavioral disturbance
sequela of stroke | cerebrovascular disease | nervous system | dx | .0005 .0005 | old_stroke+5.5 | Hemiplegia as ~;Dysphagia as ~;Aphasia as ~
depressive disorder | mood disorder | mental state | dx | .003 .003 | depression+4 | Recurrent ~;Major ~;Single episode of ~;Chronic ~
osteoarthritis | joint disease | musculoskeletal system | dx | .004 .004 | arthritis+3.6 | ~ of knee;~ of hip;Generalized ~;~ of hand;~ of shoulder
hypothyroidism | metabolic disease | endocrine system | dx | .001 .001 | hypothyroidism+5 | Primary ~;Autoimmune ~;Postablative ~
obesity | nutritional disorder | body as a whole | dx | .002 .003 | obesity+3.6 | Morbid ~;Simple ~;Central ~
alcohol dependence | substance use disorder | mental state | dx | .001 .001 | alcohol_use+5 pancreatitis+1 | Continuous ~;Episodic ~;~ in early remission
hyperlipidemia | metabolic disease | endocrine system | dx | .01 .03 | coronary_disease+1.6 diabetes+1 obesity+.6 | Mixed ~;Familial ~;Secondary ~
gastroesophageal reflux disease | digestive disease | digestive system | dx | .02 .03 | obesity+.6 | ~ with esophagitis;~ without esophagitis
anemia | blood disease | hematologic system | dx | .02 .01 | kidney_disease+1 cancer+1 bleeding+2 clotting+.3 | Iron deficiency ~;~ of chronic disease;Normocytic ~;Posthemorrhagic ~
asthma | lung disease | respiratory system | dx | .008 .015 | obesity+.6 | Allergic ~;Mild intermittent ~;Exercise induced ~
sleep apnea | sleep disorder | respiratory system | dx | .006 .01 | obesity+1.6 heart_failure+.5 | Obstructive ~;Central ~
peripheral vascular disease | vascular disease | circulatory system | dx | .004 .004 | diabetes+1 coronary_disease+1 | ~ of lower limb;~ with claudication
tobacco dependence | substance use disorder | mental state | dx | .02 .02 | copd+1.5 | Cigarette smoker with ~;~ in remission
osteoporosis | bone disease | musculoskeletal system | dx | .004 .01 | fracture+1 arthritis+.6 | Postmenopausal ~;~ with fracture
low back pain | pain finding | musculoskeletal system | dx | .004 .04 | arthritis+.6 depression+.4 | Chronic ~;Mechanical ~;~ with radiculopathy
upper respiratory infection | infectious disease | respiratory system | dx | .003 .06 | copd+.4 | Acute ~;Viral ~;Recurrent ~
allergic rhinitis | allergic disease | respiratory system | dx | .002 .03 | | Seasonal ~;Perennial ~
dermatitis | skin disease | skin | dx | .004 .03 | | Atopic ~;Contact ~;Seborrheic ~
migraine | headache disorder | nervous system | dx | .002 .02 | depression+.4 | Classical ~;~ without aura;Chronic ~
anxiety disorder | mood disorder | mental state | dx | .01 .03 | depression+1.2 | Generalized ~;~ with panic attacks
cataract | eye disease | visual system | dx | .002 .01 | diabetes+.6 arthritis+.5 | Nuclear ~;Senile ~;Diabetic ~
otitis media | ear disease | auditory system | dx | .001 .01 | child+2.5 | Acute suppurative ~;Serous ~
well child visit finding | general finding | body as a whole | dx | .0001 .0001 | child+7 | ~ at school age;~ with immunization
pneumonia | infectious disease | respiratory system | dx | .002 .001 | pneumonia+5.5 breathing+.4 | Bacterial ~;Viral ~;Lobar ~;~ of right lower lobe;~ of left lower lobe;Aspiration ~
urinary tract infection | infectious disease | urinary system | dx | .01 .01 | urosepsis+4 dementia+.5 | Acute ~;Catheter associated ~;Recurrent ~;Bacterial ~
sepsis | infectious disease | body as a whole | dx | .001 .0001 | urosepsis+5 pneumonia+2 inflammation+.9 shock+.5 | ~ due to Gram negative bacteria;~ due to Gram positive bacteria;Bacterial ~
acute myocardial infarction | heart disease | circulatory system | dx | .0005 .0001 | infarction+6.5 shock+.3 | ~ of inferior wall;~ of anterior wall;Subendocardial ~;~ of lateral wall
acute ischemic stroke | cerebrovascular disease | nervous system | dx | .0005 .0001 | stroke+6.5 brain+.4 | ~ of middle cerebral artery;Cardioembolic ~;~ of posterior circulation;Lacunar ~
gastrointestinal hemorrhage | hemorrhage | digestive system | dx | .001 .0005 | bleeding+6 clotting+.3 | Upper ~;Lower ~;~ from gastric ulcer;~ from esophageal varices
acute exacerbation of obstructive lung disease | lung disease | respiratory system | dx | .0003 .0003 | copd_exacerbation+6.5 copd+1 | Infective ~;~ with bronchospasm
closed fracture | injury | musculoskeletal system | dx | .0005 .002 | fracture+6 | ~ of neck of femur;~ of distal radius;~ of vertebra;~ of pelvis;~ of rib
acute kidney injury | kidney disease | urinary system | dx | .004 .0003 | kidney_injury+4.5 kidney+1 shock+.4 | Prerenal ~;~ due to tubular necrosis;Nonoliguric ~
encounter for elective surgery | general finding | body as a whole | dx | .0003 .0005 | elective_surgery+6.5 | ~ on joint;~ on abdomen;~ on breast
acute pancreatitis | digestive disease | digestive system | dx | .0002 .0001 | pancreatitis+7.5 metabolism+.2 | Alcoholic ~;Biliary ~;Interstitial ~
hepatic failure | liver disease | digestive system | dx | .0003 .0001 | liver_failure+6.5 liver+1 | Acute on chronic ~;Subacute ~
diabetic ketoacidosis | metabolic disease | endocrine system | dx | .0002 .0001 | ketoacidosis+7.5 metabolism+.4 | ~ without coma;~ in type 2 diabetes mellitus
septic shock | shock disorder | circulatory system | sign | .004 0 | shock+1.4 inflammation+.5 urosepsis+1 icu+1 | ~ due to bacteria;Vasopressor dependent ~
cardiogenic shock | shock disorder | circulatory system | sign | .002 0 | shock+1.4 infarction+1.4 decompensation+1.2 icu+1 | Refractory ~;~ following infarction
hypotension | shock disorder | circulatory system | sign | .05 .005 | shock+.9 icu+.7 | Transient ~;Symptomatic ~;Drug induced ~
sinus tachycardia | cardiac arrhythmia | circulatory system | sign | .08 .005 | shock+.5 inflammation+.3 icu+.8 | Persistent ~;Paroxysmal ~
acute respiratory failure | respiratory insufficiency | respiratory system | sign | .01 0 | breathing+1.3 pneumonia+.8 icu+1 | Hypoxemic ~;Hypercapnic ~;~ following surgery
hypoxemia | respiratory insufficiency | respiratory system | sign | .06 .002 | breathing+.9 icu+.7 | Nocturnal ~;Exertional ~;Persistent ~
dyspnea | respiratory insufficiency | respiratory system | sign | .10 .02 | breathing+.6 heart_failure+.6 copd+.6 | ~ on exertion;~ at rest;Paroxysmal nocturnal ~
crackles on auscultation | chest finding | respiratory system | sign | .10 .003 | breathing+.5 decompensation+.9 pneumonia+.9 icu+.9 | Fine ~;Coarse ~;Bilateral ~
oliguria | urine finding | urinary system | sign | .02 0 | kidney+1.1 shock+.4 icu+1 | Acute ~;Postoperative ~
fluid overload | fluid disorder | body as a whole | sign | .04 .002 | kidney+.6 heart_failure+.8 icu+.7 | ~ with edema;Iatrogenic ~
edema of lower limb | fluid disorder | circulatory system | sign | .08 .02 | heart_failure+1 cirrhosis+.6 kidney+.3 | Pitting ~;Bilateral ~;Chronic ~
jaundice | liver finding | digestive system | sign | .008 .001 | liver+1.2 cirrhosis+1 liver_failure+1 | Obstructive ~;Hepatocellular ~
hepatic encephalopathy | liver finding | nervous system | sign | .0008 0 | liver+1 brain+.7 cirrhosis+2 liver_failure+1.5 | Episodic ~;~ grade 2
delirium | consciousness finding | nervous system | sign | .03 0 | brain+.9 dementia+1 frailty+.4 icu+.8 | Hyperactive ~;Hypoactive ~;Postoperative ~
decreased level of consciousness | consciousness finding | nervous system | sign | .02 0 | brain+1.3 icu+1 stroke+.7 | Fluctuating ~;Drowsiness with ~
coma | consciousness finding | nervous system | sign | .002 0 | brain+1.5 icu+1.4 | Metabolic ~;Traumatic ~
thrombocytopenic disorder | blood disease | hematologic system | sign | .02 .001 | clotting+.9 cirrhosis+1 cancer+.5 | Secondary ~;Drug induced ~
disseminated intravascular coagulation | blood disease | hematologic system | sign | .001 0 | clotting+1.4 inflammation+.5 icu+.8 | Acute ~;Subclinical ~
ecchymosis | skin finding | skin | sign | .03 .002 | clotting+.6 icu+.6 | ~ of arm;~ of trunk
fever | temperature finding | body as a whole | sign | .08 .01 | inflammation+.7 pneumonia+.5 urosepsis+.5 | Intermittent ~;Postoperative ~;High ~
metabolic acidosis | acid-base disorder | body as a whole | sign | .02 0 | metabolism+1.1 kidney+.3 shock+.4 ketoacidosis+1 | Lactic ~;High anion gap ~
hyperkalemia | electrolyte disorder | body as a whole | sign | .02 .001 | kidney+.7 metabolism+.3 kidney_disease+.6 | Acute ~;Drug induced ~
hyponatremia | electrolyte disorder | body as a whole | sign | .03 .002 | liver+.4 heart_failure+.5 metabolism+.3 | Hypovolemic ~;Dilutional ~;Chronic ~
mottling of skin | skin finding | skin | sign | .004 0 | shock+1.3 icu+1.2 | ~ of lower limb;Generalized ~
cool skin of extremities | skin finding | skin | sign | .03 0 | shock+.9 icu+1.2 | ~ with slow capillary refill;Bilateral ~
warm dry skin | skin finding | skin | sign | .30 0 | shock-.4 icu+.8 | ~ of extremities;Intact ~
clear breath sounds | chest finding | respiratory system | sign | .35 .01 | breathing-.5 icu+.7 | Bilateral ~;~ after coughing
alert and oriented | consciousness finding | nervous system | sign | .40 .01 | brain-.6 icu+.7 | Fully ~;~ to person and place
regular diet tolerated | general finding | digestive system | sign | .30 0 | shock-.4 brain-.4 inflammation-.2 | ~ without nausea;Soft ~
independent walking | functional finding | musculoskeletal system | sign | .30 .01 | shock-.4 breathing-.3 frailty-.3 icu-.8 | ~ with supervision;Steady ~
pressure injury | skin disease | skin | sign | .02 .001 | frailty+.7 shock+.3 dementia+.5 | ~ of sacrum;~ of heel;Stage 2 ~
frailty syndrome | functional finding | body as a whole | dx | .008 .006 | frailty+1.1 | Moderate ~;Geriatric ~
fall | functional finding | body as a whole | dx | .01 .01 | frailty+.7 dementia+.8 fracture+2.5 | ~ at home;Recurrent ~;~ on same level
weight loss | nutritional disorder | body as a whole | dx | .008 .008 | frailty+.7 cancer+1.2 | Unintentional ~;Progressive ~
malnutrition | nutritional disorder | body as a whole | dx | .01 .002 | frailty+.8 cancer+.8 cirrhosis+.8 | Protein calorie ~;Moderate ~
urinary incontinence | urine finding | urinary system | dx | .01 .01 | frailty+.7 dementia+1 | Stress ~;Functional ~;Urge ~
constipation | digestive finding | digestive system | dx | .06 .01 | frailty+.2 | Chronic ~;Drug induced ~
nausea and vomiting | digestive finding | digestive system | sign | .10 .01 | pancreatitis+1 ketoacidosis+.8 | Postoperative ~;Persistent ~
chest pain | pain finding | circulatory system | sign | .04 .01 | infarction+1.8 coronary_disease+.5 | Precordial ~;Atypical ~;Pleuritic ~
abdominal pain | pain finding | digestive system | sign | .08 .02 | pancreatitis+1.5 bleeding+.6 | Epigastric ~;Generalized ~;Upper ~
postoperative pain | pain finding | body as a whole | sign | .06 .002 | elective_surgery+2 fracture+1.6 | ~ controlled;Acute ~
wound drainage | skin finding | skin | sign | .04 .002 | elective_surgery+1.2 fracture+.6 inflammation+.2 | Serous ~;Serosanguineous ~
multiple organ failure | shock disorder | body as a whole | dx | .0008 0 | shock+.9 kidney+.5 liver+.4 dying+4.5 | ~ following sepsis;Acute ~
cardiac arrest | heart disease | circulatory system | dx | .0005 0 | shock+.6 dying+5.5 | Asystolic ~;~ with pulseless electrical activity;In-hospital ~
palliative care status | general finding | body as a whole | dx | .0005 0 | cancer+.8 frailty+.3 dying+6 | ~ with comfort measures only;Inpatient ~
do not resuscitate status | general finding | body as a whole | sign | .003 0 | frailty+.6 brain+.3 dying+4 | ~ documented;~ by surrogate decision
"""

# ingredient | class | another ingredient of the class | forms: strengths | in out | drivers
DRUGS = """
metformin | biguanides | buformin | Oral Tablet: 500 MG, 850 MG, 1000 MG; Extended Release Oral Tablet: 500 MG, 750 MG | .01 .004 | diabetes+3.8 shock-.4 kidney-.4
glipizide | sulfonylureas | glimepiride | Oral Tablet: 2.5 MG, 5 MG, 10 MG | .002 .003 | diabetes+3.2
insulin glargine | insulins | insulin detemir | Injection: 100 UNT/ML, 300 UNT/ML | .01 .002 | diabetes+3.4 ketoacidosis+1
insulin lispro | insulins | insulin aspart | Injection: 100 UNT/ML, 200 UNT/ML | .10 .002 | diabetes+2.2 ketoacidosis+1.5 metabolism+.3
lisinopril | ACE inhibitors | ramipril | Oral Tablet: 5 MG, 10 MG, 20 MG, 40 MG | .06 .02 | hypertension+1.8 heart_failure+.7 shock-.7 kidney-.4
losartan | angiotensin receptor blockers | valsartan | Oral Tablet: 25 MG, 50 MG, 100 MG | .03 .01 | hypertension+1.8 shock-.6
amlodipine | calcium channel blockers | felodipine | Oral Tablet: 2.5 MG, 5 MG, 10 MG | .05 .015 | hypertension+2 shock-.6
metoprolol | beta blockers | bisoprolol | Oral Tablet: 25 MG, 50 MG, 100 MG; Injection: 1 MG/ML | .08 .01 | hypertension+.8 coronary_disease+1.2 atrial_fibrillation+1 shock-.5
carvedilol | beta blockers | nebivolol | Oral Tablet: 3.125 MG, 6.25 MG, 12.5 MG | .01 .003 | heart_failure+2.8
furosemide | loop diuretics | torsemide | Oral Tablet: 20 MG, 40 MG, 80 MG; Injection: 10 MG/ML | .08 .004 | heart_failure+2 decompensation+2 cirrhosis+.8 breathing+.3
spironolactone | potassium sparing diuretics | eplerenone | Oral Tablet: 25 MG, 50 MG | .01 .002 | heart_failure+1.8 cirrhosis+2
hydrochlorothiazide | thiazide diuretics | chlorthalidone | Oral Tablet: 12.5 MG, 25 MG | .02 .01 | hypertension+1.8
atorvastatin | statins | rosuvastatin | Oral Tablet: 10 MG, 20 MG, 40 MG, 80 MG | .12 .03 | coronary_disease+1.3 diabetes+.8 infarction+1
aspirin | platelet inhibitors | triflusal | Oral Tablet: 81 MG, 325 MG; Rectal Suppository: 300 MG | .12 .02 | coronary_disease+1.2 infarction+1.2 stroke+1 bleeding-1
clopidogrel | platelet inhibitors | prasugrel | Oral Tablet: 75 MG, 300 MG | .01 .003 | coronary_disease+1.8 infarction+2.2
apixaban | factor Xa inhibitors | rivaroxaban | Oral Tablet: 2.5 MG, 5 MG | .005 .002 | atrial_fibrillation+3.8
warfarin | vitamin K antagonists | acenocoumarol | Oral Tablet: 1 MG, 2 MG, 5 MG | .004 .002 | atrial_fibrillation+3
amiodarone | antiarrhythmics | dronedarone | Oral Tablet: 200 MG; Injection: 50 MG/ML | .008 .0005 | atrial_fibrillation+1.8 shock+.4
digoxin | cardiac glycosides | digitoxin | Oral Tablet: 0.125 MG, 0.25 MG | .002 .001 | atrial_fibrillation+2 heart_failure+1
nitroglycerin | nitrates | isosorbide dinitrate | Sublingual Tablet: 0.4 MG; Injection: 5 MG/ML | .01 .002 | coronary_disease+1.5 infarction+2
salbutamol | beta-2 agonists | levosalbutamol | Inhalation Solution: 0.5 MG/ML, 0.83 MG/ML; Metered Dose Inhaler: 0.09 MG | .08 .01 | copd+1.8 copd_exacerbation+1.4 breathing+.4
tiotropium | inhaled anticholinergics | umeclidinium | Inhalation Powder: 0.018 MG | .005 .002 | copd+3.2
budesonide | inhaled corticosteroids | fluticasone | Inhalation Suspension: 0.25 MG/ML, 0.5 MG/ML | .01 .004 | copd+2
prednisone | systemic corticosteroids | prednisolone | Oral Tablet: 5 MG, 10 MG, 20 MG, 50 MG | .02 .01 | copd_exacerbation+2.2 copd+.8
hydrocortisone | systemic corticosteroids | dexamethasone | Injection: 50 MG/ML, 125 MG/ML | .008 .0003 | shock+1.1 inflammation+.3
levothyroxine | thyroid hormones | liothyronine | Oral Tablet: 0.025 MG, 0.05 MG, 0.075 MG, 0.1 MG | .004 .004 | hypothyroidism+4
sertraline | serotonin reuptake inhibitors | citalopram | Oral Tablet: 25 MG, 50 MG, 100 MG | .01 .008 | depression+2.8
trazodone | other antidepressants | nefazodone | Oral Tablet: 50 MG, 100 MG | .02 .004 | depression+1.8
donepezil | cholinesterase inhibitors | galantamine | Oral Tablet: 5 MG, 10 MG | .001 .001 | dementia+4.5
quetiapine | antipsychotics | olanzapine | Oral Tablet: 25 MG, 50 MG, 100 MG | .01 .002 | dementia+1 brain+.6
haloperidol | antipsychotics | droperidol | Injection: 5 MG/ML; Oral Tablet: 1 MG, 2 MG | .01 0 | brain+.8 dementia+.5 icu+.5
omeprazole | proton pump inhibitors | lansoprazole | Delayed Release Oral Capsule: 20 MG, 40 MG | .05 .02 | bleeding+.6
pantoprazole | proton pump inhibitors | rabeprazole | Delayed Release Oral Tablet: 20 MG, 40 MG; Injection: 40 MG | .15 .005 | bleeding+1.5 icu+.5
acetaminophen | analgesics and antipyretics | propacetamol | Oral Tablet: 325 MG, 500 MG; Injection: 10 MG/ML | .50 .02 | inflammation+.2 elective_surgery+.3
ibuprofen | nonsteroidal antiinflammatory drugs | naproxen | Oral Tablet: 200 MG, 400 MG, 600 MG | .04 .03 | arthritis+.8 kidney-.6
oxycodone | opioid analgesics | hydrocodone | Oral Tablet: 5 MG, 10 MG | .12 .008 | elective_surgery+1.2 fracture+1.2
morphine | opioid analgesics | hydromorphone | Injection: 2 MG/ML, 4 MG/ML | .06 0 | elective_surgery+.6 fracture+.8 infarction+.6 dying+2.5
fentanyl | opioid analgesics | sufentanil | Injection: 0.05 MG/ML; Transdermal Patch: 0.025 MG | .02 .0003 | icu+1.6 breathing+.5 elective_surgery+.6
propofol | general anesthetics | etomidate | Injection: 10 MG/ML | .01 0 | icu+1.8 breathing+.8 brain+.4
midazolam | benzodiazepines | diazepam | Injection: 1 MG/ML, 5 MG/ML | .01 0 | icu+1.5 breathing+.7 dying+1.5
lorazepam | benzodiazepines | clonazepam | Oral Tablet: 0.5 MG, 1 MG; Injection: 2 MG/ML | .02 .004 | alcohol_use+1.2 brain+.3
rocuronium | neuromuscular blockers | vecuronium | Injection: 10 MG/ML | .002 0 | icu+1.6 breathing+1.1
norepinephrine | vasopressors | epinephrine | Injection: 1 MG/ML; Premixed Infusion: 0.016 MG/ML, 0.032 MG/ML | .01 0 | shock+1.6 icu+1.4
vasopressin | vasopressors | terlipressin | Injection: 20 UNT/ML | .002 0 | shock+1.8 icu+1.4
phenylephrine | vasopressors | methoxamine | Injection: 10 MG/ML | .01 0 | shock+1.1 icu+.8 elective_surgery+.6
dobutamine | inotropes | milrinone | Injection: 12.5 MG/ML | .001 0 | shock+1.2 decompensation+1.6 infarction+1
sodium chloride | crystalloid solutions | balanced salt solution | Injection: 9 MG/ML, 4.5 MG/ML | .40 .003 | shock+.4 ketoacidosis+.7 pancreatitis+.6
potassium chloride | electrolyte supplements | potassium gluconate | Oral Tablet: 10 MEQ, 20 MEQ; Injection: 2 MEQ/ML | .15 .004 | ketoacidosis+1 decompensation+.6 kidney-.4
sodium bicarbonate | alkalinizing agents | tromethamine | Injection: 1 MEQ/ML; Oral Tablet: 650 MG | .01 .0005 | metabolism+1.1 kidney+.6
magnesium sulfate | electrolyte supplements | magnesium oxide | Injection: 40 MG/ML, 500 MG/ML | .10 0 | icu+.6 alcohol_use+.5
calcium gluconate | electrolyte supplements | calcium chloride | Injection: 100 MG/ML | .02 0 | kidney+.6 metabolism+.4 icu+.5
albumin human | colloid solutions | hetastarch | Injection: 50 MG/ML, 250 MG/ML | .01 0 | liver+.7 cirrhosis+1 shock+.5
heparin | heparins | nadroparin | Injection: 5000 UNT/ML, 1000 UNT/ML | .25 0 | infarction+1 bleeding-1.5 clotting-.2
enoxaparin | heparins | dalteparin | Prefilled Syringe: 40 MG, 60 MG, 80 MG | .15 .001 | elective_surgery+.5 fracture+.6 kidney-.4 bleeding-1.5
ceftriaxone | cephalosporins | cefotaxime | Injection: 1000 MG, 2000 MG | .03 0 | pneumonia+2 urosepsis+2
cefazolin | cephalosporins | cephalothin | Injection: 1000 MG, 2000 MG | .03 0 | elective_surgery+2 fracture+1.6
azithromycin | macrolides | clarithromycin | Oral Tablet: 250 MG, 500 MG; Injection: 500 MG | .01 .006 | pneumonia+2 copd_exacerbation+1.8
vancomycin | glycopeptide antibiotics | teicoplanin | Injection: 500 MG, 1000 MG | .03 0 | inflammation+.8 shock+.4 urosepsis+.7 pneumonia+.6
piperacillin | extended spectrum penicillins | ticarcillin | Injection: 3000 MG, 4000 MG | .02 0 | inflammation+.8 shock+.4 pneumonia+.8 urosepsis+.8
meropenem | carbapenems | imipenem | Injection: 500 MG, 1000 MG | .004 0 | inflammation+.9 shock+.7
ciprofloxacin | fluoroquinolones | levofloxacin | Oral Tablet: 250 MG, 500 MG; Injection: 2 MG/ML | .01 .008 | urosepsis+1.4
amoxicillin | aminopenicillins | ampicillin | Oral Capsule: 250 MG, 500 MG; Oral Suspension: 50 MG/ML | .01 .02 | child+1
fluconazole | azole antifungals | voriconazole | Oral Tablet: 100 MG, 200 MG; Injection: 2 MG/ML | .004 .001 | inflammation+.6 cancer+.6
lactulose | osmotic laxatives | lactitol | Oral Solution: 667 MG/ML | .01 .001 | cirrhosis+2.4 liver_failure+1.8 liver+.5
rifaximin | intestinal antibiotics | neomycin | Oral Tablet: 200 MG, 550 MG | .001 .0002 | cirrhosis+3 liver_failure+1.6
octreotide | somatostatin analogues | lanreotide | Injection: 0.1 MG/ML, 0.5 MG/ML | .001 0 | bleeding+2.4 cirrhosis+1.4
phytonadione | vitamin K | menadione | Injection: 10 MG/ML; Oral Tablet: 5 MG | .005 0 | clotting+1 liver+.4
senna | stimulant laxatives | bisacodyl | Oral Tablet: 8.6 MG | .20 .004 | fracture+.4 elective_surgery+.4
docusate | stool softeners | poloxamer | Oral Capsule: 100 MG | .20 .003 | fracture+.3 elective_surgery+.3
ondansetron | serotonin antagonist antiemetics | granisetron | Injection: 2 MG/ML; Oral Tablet: 4 MG, 8 MG | .15 .003 | elective_surgery+.6 pancreatitis+.8
gabapentin | gabapentinoids | pregabalin | Oral Capsule: 100 MG, 300 MG; Oral Tablet: 600 MG | .04 .01 | diabetes+.7 arthritis+.4
allopurinol | xanthine oxidase inhibitors | febuxostat | Oral Tablet: 100 MG, 300 MG | .008 .004 | kidney_disease+1 obesity+.5
ferrous sulfate | iron preparations | ferrous fumarate | Oral Tablet: 325 MG | .02 .005 | bleeding+.6 kidney_disease+.8
cyclophosphamide | alkylating agents | ifosfamide | Injection: 500 MG, 1000 MG | .0005 .0003 | cancer+4
levetiracetam | antiepileptics | brivaracetam | Oral Tablet: 250 MG, 500 MG; Injection: 100 MG/ML | .006 .001 | stroke+1.4 old_stroke+1.2 brain+.4
influenza vaccine | vaccines | pneumococcal vaccine | Prefilled Syringe: 0.5 ML | .004 .04 | child+.5
thiamine | vitamin B1 | benfotiamine | Oral Tablet: 100 MG; Injection: 100 MG/ML | .01 .0005 | alcohol_use+2.6
"""

# panel | in out | drivers
PANELS = """
Vital signs panel | 5.5 0.8 | icu+.9 shock+.1
Basic metabolic panel | 1.3 .20 | icu+.3 kidney+.1 kidney_disease+.2
Complete blood count panel | 1.1 .20 | icu+.2 bleeding+.5
Differential count panel | .35 .08 | inflammation+.1
Hepatic function panel | .30 .10 | liver+.25 cirrhosis+.5 liver_failure+.6
Coagulation panel | .35 .02 | clotting+.2 bleeding+.4 atrial_fibrillation+.4
Blood gas panel | .20 0 | icu+1.2 breathing+.35 metabolism+.2
Cardiac marker panel | .12 .004 | infarction+1.6 decompensation+.8 shock+.2 first_day+.8
Inflammation marker panel | .25 .01 | inflammation+.3 pneumonia+.6 urosepsis+.6
Neurologic assessment panel | .50 0 | icu+1.3 brain+.2 stroke+1
Ventilator panel | .02 0 | icu+1.6 breathing+.9
Fluid balance panel | .50 0 | icu+1
Lipid panel | .02 .08 | coronary_disease+.4 diabetes+.4
Endocrine panel | .02 .06 | diabetes+.7 hypothyroidism+.7
Anemia panel | .03 .02 | kidney_disease+.5 cancer+.4
Pancreatic enzyme panel | .03 .002 | pancreatitis+2.5 first_day+.6
Urinalysis panel | .12 .06 | urosepsis+1 kidney+.1 first_day+.8
Body measurement panel | .15 .70 |
"""

# analyte | panel | unit unit_concept_id | centre spread decimals (log: spread in log units) | specimens; methods | drivers
ANALYTES = """
Heart rate | Vital signs panel | /min 8541 | 80 13 0 | Peripheral artery,Heart; Palpation,Monitor,Auscultation | shock+.7 inflammation+.4 atrial_fibrillation+.4
Systolic blood pressure | Vital signs panel | mmHg 8876 | 128 17 0 | Arterial system,Upper arm; Noninvasive,Invasive,Automated | shock-.8 hypertension+.6
Diastolic blood pressure | Vital signs panel | mmHg 8876 | 72 11 0 | Arterial system,Upper arm; Noninvasive,Invasive,Automated | shock-.7 hypertension+.4
Mean blood pressure | Vital signs panel | mmHg 8876 | 90 12 0 | Arterial system,Upper arm; Noninvasive,Invasive,Automated | shock-.8 hypertension+.5
Respiratory rate | Vital signs panel | /min 8541 | 17 3 0 | Respiratory system,Chest; Observed,Monitor,Impedance | breathing+.8 metabolism+.3
Oxygen saturation | Vital signs panel | % 8554 | 96.5 1.8 0 | Arterial blood,Capillary blood; Pulse oximetry,Oximetry by probe | breathing-.8 copd-.5
Body temperature | Vital signs panel | °C 586323 | 36.9 .45 1 | Oral cavity,Rectum,Axilla,Ear; Thermometer,Probe | inflammation+.6
Sodium | Basic metabolic panel | mmol/L 8753 | 139 3.2 0 | Serum or Plasma,Blood,Venous blood; Ion selective electrode,Flame photometry | liver-.4 heart_failure-.4 metabolism-.2
Potassium | Basic metabolic panel | mmol/L 8753 | 4.1 .45 1 | Serum or Plasma,Blood,Venous blood; Ion selective electrode,Flame photometry | kidney+.6 metabolism+.3
Chloride | Basic metabolic panel | mmol/L 8753 | 103 4 0 | Serum or Plasma,Blood,Venous blood; Ion selective electrode,Titration | metabolism+.2 liver-.3
Bicarbonate | Basic metabolic panel | mmol/L 8753 | 25 3 0 | Serum or Plasma,Blood,Venous blood; Enzymatic,Calculated | metabolism-.8 kidney-.4 copd+.4 shock-.3
Urea nitrogen | Basic metabolic panel | mg/dL 8840 | log 17 .45 0 | Serum or Plasma,Blood,Venous blood; Enzymatic,Colorimetric | kidney+.8 kidney_disease+1 bleeding+.4
Creatinine | Basic metabolic panel | mg/dL 8840 | log .95 .38 2 | Serum or Plasma,Blood,Venous blood; Enzymatic,Jaffe method | kidney+.9 kidney_disease+1.4
Glucose | Basic metabolic panel | mg/dL 8840 | log 112 .26 0 | Serum or Plasma,Blood,Capillary blood; Enzymatic,Glucometer | metabolism+.5 diabetes+1.1 ketoacidosis+1.2
Anion gap | Basic metabolic panel | mmol/L 8753 | 12 3 0 | Serum or Plasma,Blood; Calculated,Calculated with potassium | metabolism+.8 shock+.4
Calcium | Basic metabolic panel | mg/dL 8840 | 9 .6 1 | Serum or Plasma,Blood; Colorimetric,Atomic absorption | metabolism-.3 kidney-.3
Magnesium | Basic metabolic panel | mg/dL 8840 | 2 .28 1 | Serum or Plasma,Red blood cells; Colorimetric,Atomic absorption | kidney+.3
Phosphate | Basic metabolic panel | mg/dL 8840 | 3.5 .8 1 | Serum or Plasma,Blood; Colorimetric,Ultraviolet method | kidney+.7 metabolism+.2
Leukocytes | Complete blood count panel | 10*3/uL 8848 | log 8.6 .36 1 | Blood,Venous blood; Automated count,Manual count | inflammation+.8 shock+.2
Hemoglobin | Complete blood count panel | g/dL 8713 | 12.4 1.9 1 | Blood,Arterial blood,Venous blood; Automated count,Calculated,Oximetry | bleeding-1 kidney_disease-.5 cancer-.4 clotting-.3
Hematocrit | Complete blood count panel | % 8554 | 37.5 5.4 1 | Blood,Arterial blood,Capillary blood; Automated count,Calculated,Centrifugation | bleeding-1 kidney_disease-.5 cancer-.4 clotting-.3
Platelets | Complete blood count panel | 10*3/uL 8848 | log 225 .36 0 | Blood,Venous blood; Automated count,Manual count | clotting-.8 cirrhosis-.9 inflammation+.1
Erythrocytes | Complete blood count panel | 10*6/uL 8815 | 4.2 .6 2 | Blood,Venous blood; Automated count,Manual count | bleeding-.9 kidney_disease-.4 clotting-.2
Mean corpuscular volume | Complete blood count panel | fL 8583 | 90 6 0 | Red blood cells,Blood; Automated count,Calculated | alcohol_use+.8 cirrhosis+.3
Erythrocyte distribution width | Complete blood count panel | % 8554 | 14 1.6 1 | Red blood cells,Blood; Automated count,Calculated | frailty+.6 cancer+.5 clotting+.2 inflammation+.2
Neutrophils per 100 leukocytes | Differential count panel | % 8554 | 66 11 1 | Blood,Venous blood; Automated count,Manual count | inflammation+.8
Lymphocytes per 100 leukocytes | Differential count panel | % 8554 | 22 9 1 | Blood,Venous blood; Automated count,Manual count | inflammation-.8 frailty-.2
Monocytes per 100 leukocytes | Differential count panel | % 8554 | 7.5 2.6 1 | Blood,Venous blood; Automated count,Manual count | inflammation-.2
Band form neutrophils per 100 leukocytes | Differential count panel | % 8554 | log 2 .7 0 | Blood,Bone marrow; Manual count,Automated count | inflammation+.9 shock+.3
Alanine aminotransferase | Hepatic function panel | U/L 8645 | log 25 .55 0 | Serum or Plasma,Blood; With pyridoxal phosphate,Without pyridoxal phosphate | liver+.8 shock+.2
Aspartate aminotransferase | Hepatic function panel | U/L 8645 | log 27 .55 0 | Serum or Plasma,Blood; With pyridoxal phosphate,Without pyridoxal phosphate | liver+.9 shock+.3 infarction+.4
Alkaline phosphatase | Hepatic function panel | U/L 8645 | log 82 .4 0 | Serum or Plasma,Leukocytes; Colorimetric,Enzymatic | liver+.5 cancer+.4
Bilirubin total | Hepatic function panel | mg/dL 8840 | log .6 .55 1 | Serum or Plasma,Blood; Colorimetric,Direct spectrophotometry | liver+1 cirrhosis+.9
Bilirubin direct | Hepatic function panel | mg/dL 8840 | log .25 .6 1 | Serum or Plasma,Blood; Colorimetric,Direct spectrophotometry | liver+1 cirrhosis+.7
Albumin | Hepatic function panel | g/dL 8713 | 3.7 .55 1 | Serum or Plasma,Blood; Bromocresol green,Bromocresol purple,Electrophoresis | liver-.4 inflammation-.5 frailty-.5 cirrhosis-.7
Protein total | Hepatic function panel | g/dL 8713 | 6.9 .7 1 | Serum or Plasma,Blood; Biuret,Refractometry | liver-.3 frailty-.3
INR | Coagulation panel | none 0 | log 1.15 .22 1 | Platelet poor plasma,Capillary blood; Coagulation assay,Point of care test | clotting+.9 liver+.4 cirrhosis+.5
Prothrombin time | Coagulation panel | s 8555 | log 13 .2 1 | Platelet poor plasma,Blood; Coagulation assay,Optical detection | clotting+.9 liver+.4 cirrhosis+.5
Activated partial thromboplastin time | Coagulation panel | s 8555 | log 31 .24 1 | Platelet poor plasma,Blood; Coagulation assay,Optical detection | clotting+.8
Fibrinogen | Coagulation panel | mg/dL 8840 | log 330 .35 0 | Platelet poor plasma,Blood; Coagulation assay,Clauss method | clotting-.6 inflammation+.3 liver-.3
D-dimer | Coagulation panel | ng/mL 8842 | log 500 .8 0 | Platelet poor plasma,Blood; Immunoassay,Latex agglutination | clotting+.6 inflammation+.4
pH | Blood gas panel | none 0 | 7.38 .055 2 | Arterial blood,Venous blood,Capillary blood; Electrode,Calculated | metabolism-.8 breathing-.4 shock-.3
Carbon dioxide partial pressure | Blood gas panel | mmHg 8876 | 41 7 0 | Arterial blood,Venous blood,Capillary blood; Electrode,Calculated | breathing+.6 copd+.7 metabolism-.4
Oxygen partial pressure | Blood gas panel | mmHg 8876 | log 92 .3 0 | Arterial blood,Venous blood,Capillary blood; Electrode,Calculated | breathing-.7
Base excess | Blood gas panel | mmol/L 8753 | 0 3.6 0 | Arterial blood,Venous blood,Capillary blood; Calculated,Calculated standard | metabolism-.9 shock-.3
Lactate | Blood gas panel | mmol/L 8753 | log 1.5 .45 1 | Arterial blood,Venous blood,Serum or Plasma,Blood; Enzymatic,Electrode | shock+1 metabolism+.6 liver+.2
Calcium ionized | Blood gas panel | mmol/L 8753 | 1.14 .08 2 | Arterial blood,Serum or Plasma,Blood; Ion selective electrode,Calculated | metabolism-.4
Troponin | Cardiac marker panel | ng/mL 8842 | log .02 .9 2 | Serum or Plasma,Blood; High sensitivity immunoassay,Point of care test | infarction+2.2 shock+.5 kidney_disease+.4
Natriuretic peptide | Cardiac marker panel | pg/mL 8845 | log 350 .9 0 | Serum or Plasma,Blood; Immunoassay,Point of care test | heart_failure+1.1 decompensation+1 kidney+.3 shock+.3
Creatine kinase | Cardiac marker panel | U/L 8645 | log 110 .7 0 | Serum or Plasma,Blood; Enzymatic,Ultraviolet method | infarction+1 fracture+.6 shock+.2
C reactive protein | Inflammation marker panel | mg/L 8751 | log 14 1.1 1 | Serum or Plasma,Blood; Immunoturbidimetry,High sensitivity method | inflammation+1
Procalcitonin | Inflammation marker panel | ng/mL 8842 | log .2 1.1 2 | Serum or Plasma,Blood; Immunoassay,Rapid immunoassay | inflammation+1 shock+.5
Erythrocyte sedimentation rate | Inflammation marker panel | mm/h 8752 | log 22 .7 0 | Blood,Venous blood; Westergren method,Wintrobe method | inflammation+.6 cancer+.4
Glasgow coma score total | Neurologic assessment panel | none 0 | 14.1 1.3 0 | Central nervous system,Patient; Observed,Estimated | brain-1 stroke-.4
Glasgow coma score motor | Neurologic assessment panel | none 0 | 5.7 .6 0 | Central nervous system,Patient; Observed,Estimated | brain-.9
Glasgow coma score verbal | Neurologic assessment panel | none 0 | 4.5 .7 0 | Central nervous system,Patient; Observed,Estimated | brain-.9 breathing-.2
Pain severity score | Neurologic assessment panel | none 0 | 3 2 0 | Patient,Body; Reported numeric scale,Observed behavior scale | fracture+.6 elective_surgery+.6
Inspired oxygen fraction | Ventilator panel | % 8554 | log 42 .3 0 | Inhaled gas,Airway; Ventilator setting,Measured | breathing+.9
Positive end expiratory pressure | Ventilator panel | cmH2O 44777590 | 6 1.8 0 | Airway,Respiratory system; Ventilator setting,Measured | breathing+.8
Tidal volume | Ventilator panel | mL 8587 | 440 70 0 | Airway,Respiratory system; Ventilator setting,Measured,Spontaneous | breathing-.4
Peak inspiratory pressure | Ventilator panel | cmH2O 44777590 | 20 5 0 | Airway,Respiratory system; Ventilator setting,Measured | breathing+.7 copd+.3
Urine output | Fluid balance panel | mL 8587 | log 150 .6 0 | Urinary bladder,Urine catheter; Collection hourly,Collection over shift | kidney-.8 shock-.5
Fluid intake | Fluid balance panel | mL 8587 | log 180 .6 0 | Oral cavity,Intravenous line; Recorded intake,Estimated intake | shock+.4
Cholesterol total | Lipid panel | mg/dL 8840 | 180 38 0 | Serum or Plasma,Blood; Enzymatic,Point of care test | frailty-.3 obesity+.3
Cholesterol in HDL | Lipid panel | mg/dL 8840 | 50 13 0 | Serum or Plasma,Blood; Direct assay,Precipitation | obesity-.6 alcohol_use+.3
Cholesterol in LDL | Lipid panel | mg/dL 8840 | 103 33 0 | Serum or Plasma,Blood; Calculated,Direct assay | coronary_disease-.3 obesity+.3
Triglyceride | Lipid panel | mg/dL 8840 | log 125 .45 0 | Serum or Plasma,Blood; Enzymatic,Point of care test | obesity+.6 diabetes+.5
Hemoglobin A1c | Endocrine panel | % 8554 | log 5.6 .1 1 | Blood,Capillary blood; Chromatography,Immunoassay,Point of care test | diabetes+2.2
Thyrotropin | Endocrine panel | mU/L 9040 | log 1.9 .6 2 | Serum or Plasma,Blood; Third generation immunoassay,Immunoassay | hypothyroidism+1.2
Ferritin | Anemia panel | ng/mL 8842 | log 120 .9 0 | Serum or Plasma,Blood; Immunoassay,Radioimmunoassay | inflammation+.4 liver+.4 bleeding-.6
Iron | Anemia panel | ug/dL 8837 | 65 28 0 | Serum or Plasma,Blood; Colorimetric,Atomic absorption | bleeding-.6 inflammation-.3
Cobalamin | Anemia panel | pg/mL 8845 | log 480 .45 0 | Serum or Plasma,Blood; Immunoassay,Competitive binding | liver+.3
Lipase | Pancreatic enzyme panel | U/L 8645 | log 34 .6 0 | Serum or Plasma,Body fluid; Enzymatic,Turbidimetry | pancreatitis+3
Amylase | Pancreatic enzyme panel | U/L 8645 | log 58 .5 0 | Serum or Plasma,Body fluid; Enzymatic,Colorimetric | pancreatitis+2.5
Specific gravity | Urinalysis panel | none 0 | 1.017 .008 3 | Urine,Urine sediment; Refractometry,Test strip | kidney-.2
Leukocytes in urine | Urinalysis panel | /HPF 8786 | log 4 1.2 0 | Urine,Urine sediment; Microscopy,Automated count | urosepsis+1.6
Protein in urine | Urinalysis panel | mg/dL 8840 | log 12 1 0 | Urine,Urine 24 hour; Test strip,Colorimetric | kidney+.4 kidney_disease+1
Body weight | Body measurement panel | kg 9529 | log 79 .2 1 | Patient,Body; Measured,Reported,Bed scale | obesity+1.3 frailty-.3
Body mass index | Body measurement panel | kg/m2 9531 | log 27 .18 1 | Patient,Body; Calculated,Estimated | obesity+1.5 frailty-.3
"""

# action | body site | other ways to code it | in out | drivers
PROCEDURES = """
Insertion of central venous catheter | vein | into internal jugular vein;into subclavian vein;into femoral vein;using ultrasound guidance | .01 0 | shock+1 icu+1.3 first_day+.5
Insertion of arterial catheter | artery | into radial artery;into femoral artery;using ultrasound guidance | .01 0 | shock+1 icu+1.5 first_day+.4
Endotracheal intubation | trachea | by video laryngoscopy;by direct laryngoscopy;through nose;by emergency procedure | .005 0 | breathing+1.4 brain+.6 icu+1.3 first_day+.5
Mechanical ventilation | lung | by volume control;by pressure support;for less than 96 hours;through endotracheal tube | .01 0 | breathing+1.3 icu+1.4
Noninvasive ventilation | lung | by face mask;by continuous positive pressure;by bilevel pressure | .015 0 | breathing+1.1 copd_exacerbation+1 decompensation+.7
Oxygen therapy | lung | by nasal cannula;by face mask;by high flow cannula | .20 .001 | breathing+.8 copd+.4
Hemodialysis | blood | by temporary catheter;by fistula;intermittent;acute | .004 .0005 | kidney+1.2 kidney_disease+1
Continuous hemofiltration | blood | venovenous;with citrate anticoagulation;with dialysis | .0008 0 | kidney+1.3 shock+.8 icu+1.2
Transfusion of red blood cells | blood | leukoreduced;through peripheral vein;irradiated | .03 .0005 | bleeding+1.6 clotting+.6 shock+.3 cancer+.4
Transfusion of platelets | blood | pooled;by apheresis;irradiated | .003 .0002 | clotting+1.2 cancer+1
Transfusion of plasma | blood | fresh frozen;thawed | .003 0 | clotting+1.2 liver+.5 bleeding+.8
Cardiopulmonary resuscitation | heart | with external compression;with defibrillation;by advanced team | .0005 0 | shock+.9 dying+4.5
Electrical cardioversion | heart | external synchronized;biphasic | .003 .0003 | atrial_fibrillation+1.6 shock+.5
Coronary angiography | coronary artery | by radial approach;by femoral approach;with left ventriculography | .003 .0002 | infarction+3.2 coronary_disease+.8
Percutaneous coronary intervention | coronary artery | with stent;with balloon;by radial approach | .001 .0001 | infarction+3.4 coronary_disease+.7
Transthoracic echocardiography | heart | with Doppler;limited;with contrast | .04 .01 | infarction+1 decompensation+1 heart_failure+.5 shock+.3
Electrocardiography | heart | with 12 leads;by telemetry;with rhythm strip | .20 .03 | infarction+.8 atrial_fibrillation+.4 first_day+.5
Plain radiography of chest | chest | portable;in two views;anteroposterior | .20 .02 | breathing+.3 pneumonia+.5 first_day+.5
Computed tomography of head | head | without contrast;with contrast;with angiography | .04 .003 | stroke+2 brain+.6 first_day+.6
Computed tomography of chest | chest | without contrast;with contrast;with angiography | .03 .005 | breathing+.5 cancer+.6
Computed tomography of abdomen | abdomen | without contrast;with contrast;of pelvis also | .03 .005 | pancreatitis+1.5 bleeding+.6 cancer+.5 inflammation+.2
Magnetic resonance imaging of brain | head | without contrast;with contrast;with diffusion | .01 .003 | stroke+2
Ultrasonography of kidney | kidney | bilateral;with Doppler;limited | .01 .003 | kidney+.6 kidney_disease+.6
Ultrasonography of abdomen | abdomen | limited;of right upper quadrant;with Doppler | .02 .005 | liver+.6 cirrhosis+.8 pancreatitis+.8
Ultrasonography of leg veins | vein | bilateral;unilateral;with compression | .02 .003 | clotting+.2 fracture+.3
Upper gastrointestinal endoscopy | stomach | with biopsy;with hemostasis;diagnostic | .008 .004 | bleeding+2.6 cirrhosis+.4
Colonoscopy | colon | with biopsy;with polypectomy;diagnostic | .004 .012 | bleeding+1.6 cancer+.5
Paracentesis | abdomen | with ultrasound guidance;therapeutic;diagnostic | .002 .0003 | cirrhosis+2.6 liver_failure+1 liver+.4
Thoracentesis | chest | with ultrasound guidance;therapeutic;diagnostic | .003 .0003 | breathing+.6 cancer+1 decompensation+.7
Lumbar puncture | spine | diagnostic;with image guidance | .002 .0002 | brain+.6
Bronchoscopy | lung | with lavage;with biopsy;flexible | .003 .0005 | breathing+.9 icu+.6 cancer+.6
Replacement of joint | joint | of knee;of hip;cemented;uncemented | .002 0 | elective_surgery+3.4 arthritis+1
Internal fixation of fracture | bone | of femur;of radius;with intramedullary nail;open | .001 0 | fracture+4.4
Excision of lesion of breast | breast | with sentinel node biopsy;partial;by wide margin | .0003 .0003 | elective_surgery+3 cancer+1.4
Resection of colon | colon | by laparoscopic approach;by open approach;partial;right sided | .0005 0 | elective_surgery+3.2 cancer+1.2
Cholecystectomy | gallbladder | by laparoscopic approach;by open approach;with cholangiography | .0008 0 | elective_surgery+2.6 pancreatitis+1.8
Repair of hernia | abdomen | by laparoscopic approach;by open approach;with mesh | .0006 .0003 | elective_surgery+3
General anesthesia | body | by inhalation;intravenous;balanced | .01 0 | elective_surgery+2.8 fracture+2.4
Insertion of urinary catheter | urinary bladder | indwelling;intermittent;suprapubic | .06 .001 | icu+.8 kidney+.3 urosepsis+.4 first_day+.5
Insertion of nasogastric tube | stomach | for feeding;for decompression;with radiographic check | .02 0 | brain+.7 icu+.9 dementia+.3
Enteral feeding | stomach | by nasogastric tube;by gastrostomy;continuous | .02 0 | brain+.7 icu+.9 breathing+.4
Parenteral nutrition | vein | total;peripheral;cyclic | .003 0 | inflammation+.4 cancer+.8 pancreatitis+.8
Tracheostomy | trachea | percutaneous;open;temporary | .0006 0 | breathing+1 brain+.6 icu+1
Blood culture collection | blood | aerobic and anaerobic;from central line;from peripheral vein | .08 .0005 | inflammation+.6 urosepsis+.6 pneumonia+.5 first_day+.8
Urine culture collection | urine | midstream;from catheter | .06 .01 | urosepsis+1.2 first_day+.6
Physical therapy evaluation | body | at bedside;of gait;initial | .12 .01 | fracture+.8 elective_surgery+.4 stroke+.6 shock-.3
Occupational therapy evaluation | body | at bedside;of self care;initial | .08 .004 | stroke+.8 fracture+.5 shock-.3
Swallowing evaluation | throat | at bedside;by fluoroscopy | .02 .001 | stroke+1.8 dementia+.8
Wound care | skin | with negative pressure;with 5" dressing;of surgical wound | .06 .005 | elective_surgery+.6 fracture+.4 frailty+.3
Discharge planning | body | by case manager;with family meeting;to home | .15 0 | shock-.4 breathing-.3 brain-.2
Palliative care consultation | body | inpatient;with family meeting | .002 0 | cancer+1 frailty+.4 brain+.3 dying+4
Withdrawal of life support | body | of ventilation;of vasopressor support | .00005 0 | dying+6.5
Immunization | body | intramuscular;subcutaneous | .003 .05 | child+1
Office evaluation | body | of established patient;of new patient;extended;brief | .001 .60 |
Eye examination | eye | dilated;with fundus photography;routine | .0005 .02 | diabetes+1
Screening mammography | breast | bilateral;digital | .0002 .012 |
Spirometry | lung | with bronchodilator;routine | .002 .008 | copd+1.6
Chemotherapy administration | vein | by infusion;by injection | .002 .0015 | cancer+3.4
"""


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def drivers(text: str) -> dict[str, float]:
    """`shock+0.9 kidney-.4` as {"shock": 0.9, "kidney": -0.4}."""
    found = {}
    for word in text.split():
        at = max(word.rfind("+"), word.rfind("-"))
        found[word[:at]] = float(word[at:])
    return found
