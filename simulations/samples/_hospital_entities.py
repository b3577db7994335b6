"""Clinical sentences of the hospital: disease and drug pairs, and sentences with slots, by split.

`{disease}` and `{drug}` come from one pair, so that a drug stands beside a disease that it treats;
`{disease2}` and `{drug2}` come from another pair. A line without slots is a sentence without entities.
"""

PAIRS = {
    "train": """
hypertension | lisinopril
type 2 diabetes | metformin
asthma | salbutamol
atrial fibrillation | apixaban
hypothyroidism | levothyroxine
epilepsy | levetiracetam
migraine | sumatriptan
depression | sertraline
gout | allopurinol
osteoporosis | alendronate
rheumatoid arthritis | methotrexate
ulcerative colitis | mesalazine
heart failure | bisoprolol
angina | glyceryl trinitrate
psoriasis | calcipotriol
schizophrenia | olanzapine
bipolar disorder | lithium carbonate
tuberculosis | isoniazid
malaria | artesunate
community-acquired pneumonia | amoxicillin
cellulitis | flucloxacillin
deep vein thrombosis | warfarin
Parkinson's disease | levodopa
iron deficiency anaemia | ferrous sulfate
hyperlipidaemia | atorvastatin
glaucoma | latanoprost
multiple sclerosis | interferon beta
chronic obstructive pulmonary disease | tiotropium
gastro-oesophageal reflux disease | omeprazole
urinary tract infection | nitrofurantoin
acne vulgaris | doxycycline
shingles | aciclovir
renal cell carcinoma | sunitinib
chronic myeloid leukaemia | imatinib
HIV infection | dolutegravir
restless legs syndrome | pramipexole
hay fever | cetirizine
nephrotic syndrome | prednisolone
bacterial meningitis | ceftriaxone
oral candidiasis | nystatin
polycystic kidney disease | tolvaptan
trigeminal neuralgia | carbamazepine
myasthenia gravis | pyridostigmine
influenza | oseltamivir
generalised anxiety disorder | venlafaxine
multiple myeloma | bortezomib
scabies | permethrin
insomnia | zopiclone
""",
    "validation": """
Crohn's disease | infliximab
pulmonary embolism | rivaroxaban
narcolepsy | modafinil
ankylosing spondylitis | etanercept
Graves' disease | carbimazole
hepatitis C | sofosbuvir
thyroid cancer | lenvatinib
scarlet fever | phenoxymethylpenicillin
pericarditis | colchicine
toxoplasmosis | pyrimethamine
rosacea | ivermectin
overactive bladder | solifenacin
Addison's disease | hydrocortisone
""",
    "test": """
polymyalgia rheumatica | tocilizumab
systemic lupus erythematosus | hydroxychloroquine
sarcoidosis | azathioprine
giardiasis | metronidazole
legionellosis | azithromycin
pyelonephritis | ciprofloxacin
acromegaly | octreotide
Alzheimer's dementia | donepezil
cystic fibrosis | ivacaftor
hyperkalaemia | patiromer
Wilson's disease | penicillamine
sickle cell disease | hydroxycarbamide
melanoma | pembrolizumab
colorectal adenocarcinoma | capecitabine
haemophilia A | emicizumab
idiopathic pulmonary fibrosis | nintedanib
infective endocarditis | vancomycin
croup | dexamethasone
atopic eczema | tacrolimus
hypoparathyroidism | alfacalcidol
Raynaud's phenomenon | nifedipine
Huntington's chorea | tetrabenazine
obsessive-compulsive disorder | fluvoxamine
nocturnal enuresis | desmopressin
duodenal ulcer | lansoprazole
Kawasaki disease | aspirin
leprosy | dapsone
schistosomiasis | praziquantel
cytomegalovirus retinitis | ganciclovir
hyperhidrosis | oxybutynin
Hodgkin lymphoma | brentuximab
essential tremor | propranolol
""",
}

SENTENCES = {
    "train": """
The patient was started on {drug} for {disease} and discharged the next morning.
She has a ten-year history of {disease}, for which she takes {drug} every evening.
{drug} was increased because his {disease} was still not under control.
No evidence of {disease} was found on examination or on the scan.
He stopped taking {drug} two weeks ago because it made him dizzy.
Known case of {disease}, on {drug}, now presenting with swollen ankles.
His mother and his sister both had {disease} before the age of fifty.
Past medical history includes {disease} and {disease2}, both stable for several years.
We switched her from {drug} to {drug2} after she developed a rash.
The latest test results confirmed the diagnosis of {disease}.
The symptoms of {disease} improved within a month of treatment with {drug}.
Please continue {drug} and arrange a blood test in three months.
The ward pharmacist noticed that {drug} had been prescribed twice on the same chart.
He is allergic to {drug}, which once caused swelling of his lips.
A first-line option for {disease} in this age group is {drug}.
She was admitted with an acute worsening of {disease} after missing two appointments.
The consultant suspects {disease} rather than {disease2} in view of the normal blood count.
There is no interaction between {drug} and {drug2} at the doses she uses.
Treatment of {disease} with {drug} was well tolerated and the pain settled.
His {disease} was diagnosed by chance during a routine check before surgery.
Her regular medicines are {drug}, {drug2} and a vitamin supplement.
The family asked whether {disease} can be inherited and were given time to talk.
{disease} remains the most likely cause of her present complaints.
After six weeks on {drug} the symptoms had gone and he felt stronger.
The dose of {drug} was halved because of her reduced kidney function.
Owing to {disease} he could no longer climb the stairs without stopping.
She was counselled about the side effects of {drug} before leaving the clinic.
Screening for {disease} was negative, so the planned operation can go ahead.
He stayed on {drug} overnight while {disease2} was being ruled out.
The letter from the referring doctor mentions {disease} but no current medication.
{drug} should be avoided in patients who also suffer from {disease2}.
Long-standing {disease} with poor response to {drug}, now referred for a specialist opinion.
He forgot his {drug} during the holidays and the complaints returned.
The nurse explained how and when to use {drug} and left a leaflet.
Following a relapse of {disease}, therapy with {drug} was resumed at once.
In view of her {disease2}, we chose {drug} and kept the course short.
The young man was treated with {drug} and felt well by the third day.
Her headache is probably not caused by {disease} but by a lack of sleep.
Intolerant of {drug}; please consider {drug2} if a second agent is needed.
This is a follow-up visit for {disease}, and she reports no new complaints.
Newly diagnosed {disease} was discussed with the couple, who accepted a trial of {drug}.
The rash appeared three days after the first dose of {drug}.
The booklet lists the possible complications of {disease} in plain words.
Bloods were repeated since {drug} can raise the liver enzymes.
He was vaccinated early because of his {disease}, and the arm was sore for a day.
If {drug} fails to relieve the symptoms, the team will add {drug2}.
She keeps a spare pack of {drug} in a drawer at her workplace.
Both {disease} and {disease2} were listed on the transfer summary from the other ward.
""",
    "train_without": """
The wound was clean and dry, and the dressing was changed without difficulty.
She walked the length of the corridor with a frame and one helper.
Chest X-ray was normal, and the pulse was regular at seventy beats per minute.
The family meeting was moved to the afternoon so that his daughter could attend.
He slept well, ate a full breakfast and asked when he could go home.
Blood pressure was 128 over 76 on both arms after five minutes of rest.
The physiotherapist recommended daily exercises for the left shoulder.
There was mild tenderness over the lower abdomen but no guarding.
Consent was obtained after the risks and benefits had been explained.
The catheter was removed this morning and she passed urine normally.
He drinks little alcohol, has never smoked and works as a bus driver.
An interpreter joined the consultation by telephone for the whole visit.
The sutures can be taken out by the district nurse in ten days.
Vision was equal in both eyes and the reflexes were brisk.
She complained of a sore throat, a runny nose and tiredness since the weekend.
The ultrasound showed a normal liver, normal kidneys and no free fluid.
The bed by the window was given to the patient who needed more light.
Weight was stable at sixty-four kilograms, and the appetite had returned.
""",
    "validation": """
{disease} was first noted at the age of thirty and has been treated with {drug} ever since.
The registrar stopped {drug} this morning because the platelets had fallen.
Imaging makes {disease} unlikely, although the swelling has not yet been explained.
We would like to offer her {drug} as soon as the infection screen is back.
He lives alone, uses {drug} for {disease} and manages his own shopping.
The outpatient team asked whether {drug} could be swapped for {drug2}.
Two of her cousins have {disease}, but none of them needed hospital care.
A flare of {disease} kept him off work, and {drug} helped only a little.
Mixed picture of {disease} and {disease2}; the panel will decide on treatment.
She vomited shortly after swallowing {drug}, so the dose was repeated.
""",
    "validation_without": """
The drain was pulled on the second day and the site looked healthy.
He could stand unaided but needed help with shoes and buttons.
Temperature, pulse and oxygen levels stayed within normal limits all night.
""",
    "test": """
Since she began {drug} last spring, her {disease} has hardly troubled her.
We discussed with the patient that {disease} can come back even years later.
Could you kindly review whether he still requires {drug}?
The latest results exclude {disease2}, which leaves {disease} as the working diagnosis.
Tolerating {drug} well, apart from some dryness of the mouth.
Admission was prompted by breathlessness in a man living with {disease}.
One of his aunts was found to have {disease} some years ago.
The evening round agreed to hold {drug} until the creatinine settles.
Given the failure of {drug}, the board approved a switch to {drug2}.
Known comorbidities are {disease}, {disease2} and a previous hip fracture.
His parents wondered whether {drug} was safe in the long run.
It took three opinions before somebody thought of {disease}.
The opening dose of {drug} was larger, and later ones were spread over the day.
Several features typical of {disease} were again seen at this visit.
Her {disease} flared up as soon as {drug} had been withdrawn.
The leaflet warns against combining {drug} with {drug2}.
He denies ever having had {disease}, yet his old records mention it.
Under {drug}, the main symptom eased but the fatigue did not.
Apart from well-controlled {disease} there is nothing of note in her history.
Refill of {drug} was issued for the next twelve weeks.
Should the complaints persist despite {drug}, think of {disease2} as well.
The surgeon postponed the procedure on account of untreated {disease}.
Because of vomiting, {drug} was put off until the evening.
Every second patient in this clinic is followed for {disease}.
Normal inflammation markers and a clear scan argue against {disease}.
Her notes list an adverse reaction to {drug} during childhood.
The combination of {disease} with poor kidney function calls for closer monitoring.
Only {drug} brought relief, and he now asks to stay on it for good.
Neither {drug} nor {drug2} was available at the pharmacy that night.
Untreated, {disease} may lead to lasting damage within months.
Half a year without {drug} has passed and he is still doing fine.
The lecture was about {disease}, which our students rarely get to see.
Whether {drug} caused the itching could not be settled with certainty.
Her form of {disease} is mild and calls for nothing but watchful waiting.
To prevent a setback, {drug} must not be stopped from one day to the next.
What the outside hospital labelled as {disease} turned out to be {disease2}.
Thanks to {drug}, the number of attacks has dropped to one a year.
He accepted the diagnosis of {disease} calmly and asked about {drug}.
The blood level of {drug} was too low, probably because of missed doses.
Severe {disease} forced her to give up her job as a pilot.
""",
    "test_without": """
The plaster will come off in four weeks, and until then she must not bear weight.
Hearing was tested in a quiet room and found to be normal on both sides.
He reports two nights of poor sleep because of noise on the ward.
The stitches were neat, and there was no redness around the cut.
Her speech was clear, and she knew where she was and why.
Nothing abnormal was felt in the neck or under the arms.
""",
}
